"""The pair losses' kernels against plain torch, on the device where they are to run."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection.autograd import pair_cosine, pair_cross_entropy, pair_smooth_l1
from moleblend_fs.ops.selftest_tolerance import compare, tolerance_of


def self_test(device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> None:
    """Compare all three losses and their gradients with plain torch in float64 on a few small molecules.

    Args:
        dtype: of both sides and the form.
        shape: the width of a side.

    Raises:
        OtherNumbers: they differ by more than rounding explains.
    """
    generator = torch.Generator().manual_seed(0)
    sizes, (width,) = [1, 17, 2, 16, 5], shape or (32,)
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
    for outputs, ours, loss, targets in cases:
        sizes_of_inputs = [(sum(sizes), width), (sum(sizes), width), (outputs, width, width), (outputs,)]
        inputs = [(torch.randn(s, generator=generator) * 0.3).to(device, dtype).requires_grad_() for s in sizes_of_inputs]
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
        what = f"pair_projection kernels ({ours.__name__}) on {device} in {dtype}, width {width}"
        compare(what, ("loss", "d left", "d right", "d weight", "d bias"), got, expected, tolerance_of(dtype))
