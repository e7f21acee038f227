"""The pair losses' kernels against plain torch, on the device where they are to run."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops.kernel_variant import tf32_allowed
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection.autograd import pair_cosine, pair_cross_entropy, pair_smooth_l1


def self_test(device: torch.device) -> None:
    """Compare all three losses and their gradients with plain torch in float64 on a few small molecules.

    Raises:
        RuntimeError: they differ by more than rounding explains.
    """
    generator = torch.Generator().manual_seed(0)
    sizes, width = [1, 17, 2, 16, 5], 32
    layout = Layout(torch.tensor(sizes), device)
    pairs = layout.num_pairs
    classes = torch.randint(-1, 11, (pairs, 1), generator=generator, dtype=torch.int8).to(device)
    aims, shares = torch.randn(pairs, 3, generator=generator).to(device), torch.rand(pairs, generator=generator).to(device)
    cases: list[tuple[int, Callable[..., Tensor], Callable[[Tensor], Tensor], list[Tensor]]] = [
        (11, pair_cross_entropy, lambda z: F.cross_entropy(z, classes[:, 0].long(), ignore_index=-1, reduction="sum"), [classes]),
        (3, pair_cosine, lambda z: ((1 - F.cosine_similarity(z, aims.double(), dim=1)) * shares).sum(), [aims, shares]),
        (
            1,
            pair_smooth_l1,
            lambda z: (F.smooth_l1_loss(z[:, 0], aims[:, 0].double(), reduction="none") * shares).sum(),
            [aims[:, 0], shares],
        ),
    ]
    # Half precision keeps 8 bits of U, dz and dU, TF32 11; a mistake in an index is an error of order 1.
    half = torch.bfloat16 if device.type == "cuda" else torch.float16
    for dtype, tolerance in ((torch.float32, 5e-3 if tf32_allowed() else 1e-4), (half, 3e-2)):
        for outputs, ours, loss, targets in cases:
            shapes = [(sum(sizes), width), (sum(sizes), width), (outputs, width, width), (outputs,)]
            inputs = [(torch.randn(s, generator=generator) * 0.3).to(device, dtype).requires_grad_() for s in shapes]
            with torch.enable_grad():
                total = ours(*inputs, *targets, layout)
                got = [total, *torch.autograd.grad(total, inputs)]
                exact = [x.detach().double().requires_grad_() for x in inputs]
                left, right, weight, bias = exact
                z = torch.cat(
                    [torch.einsum("ia,cab,jb->ijc", l, weight, r).flatten(0, 1) for l, r in zip(left.split(sizes), right.split(sizes))]
                )
                expected_total = loss(z + bias)
                expected = [expected_total, *torch.autograd.grad(expected_total, exact)]
            for name, a, b in zip(("loss", "d_left", "d_right", "d_weight", "d_bias"), got, expected, strict=True):
                error = float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max())
                if not error <= tolerance:
                    raise RuntimeError(
                        f"{ours.__name__} in {dtype} on {device}: {name} is off by {error:.2e} of its largest value, "
                        f"allowed is {tolerance:.0e}; MOLEBLEND_OPS=pair_projection=reference runs plain torch instead"
                    )
