"""Losses of the pair projection by Triton kernels: the sum and, in the same pass, its gradient.

The sum's gradient is known up to one factor, which the backward pass multiplies in. Neither z nor U = L W is ever stored.
Shape legend: A atoms, P pairs, m pair width, C outputs, K classifications per pair.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.kernels import pair_projection_jit as jit
from moleblend_fs.ops.kernels.common import TRITON_TYPES, Variant, tf32_allowed
from moleblend_fs.ops.kernels.pair_projection_ops import KERNELS, cross_entropy_op, geometry_op, launch_of, padded_width, plan_of
from moleblend_fs.ops.layout import Layout

SHIPPED_CLASSES = {"spd": (1, 11), "edge": (5, 24)}
"""(K, classes) of the two classifying heads."""
SHIPPED_OUTPUTS = {"cosine": 3, "smooth_l1": 1}
SHIPPED_WIDTHS = (16, 32)
"""Pair widths of the shipped presets."""


class _LossSum(torch.autograd.Function):
    """An op's loss, whose gradients the op gives for an upstream gradient of 1."""

    @staticmethod
    def forward(ctx, left, right, weight, bias, op, others, with_grad):
        dtype = left.dtype
        total, *gradients = op(*(x.detach().to(dtype).contiguous() for x in (left, right, weight, bias)), *others, with_grad)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in (left, right, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total):
        return *((d_total * g).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)), None, None, None


def _loss_sum(op, left: Tensor, right: Tensor, weight: Tensor, bias: Tensor, layout: Layout, targets: list[Tensor]) -> Tensor:
    if left.dtype not in TRITON_TYPES:
        raise ValueError(f"the pair projection's kernels take {', '.join(map(str, TRITON_TYPES))}, got {left.dtype}; use the reference")
    with_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (left, right, weight, bias))
    return _LossSum.apply(left, right, weight, bias, op, [*(t.contiguous() for t in targets), *plan_of(layout)], with_grad)


def pair_cross_entropy(left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_PK: Tensor, layout: Layout) -> Tensor:
    """Sum of the cross-entropies of K classifications per pair, a float32 scalar; target_PK int8, negative ones do not count."""
    return _loss_sum(cross_entropy_op, left_Am, right_Am, weight_Cmm, bias_C, layout, [target_PK])


def pair_cosine(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P3: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * (1 - cos(z, target)), a float32 scalar; C > 1."""
    return _loss_sum(geometry_op, left_Am, right_Am, weight_Cmm, bias_C, layout, [target_P3.float(), weight_P.float()])


def pair_smooth_l1(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * SmoothL1(z, target), a float32 scalar; C = 1."""
    return _loss_sum(geometry_op, left_Am, right_Am, weight_Cmm, bias_C, layout, [target_P.float(), weight_P.float()])


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


def variants() -> list[Variant]:
    """Every configuration that the shipped presets can choose."""
    result = []
    for width in SHIPPED_WIDTHS:
        for dtype, precision in ((torch.bfloat16, "ieee"), (torch.float16, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")):
            for with_grad in (True, False):
                for name, (hops, classes) in SHIPPED_CLASSES.items():
                    result.append(_variant("cross_entropy", name, dtype, precision, width, with_grad, {"HOPS": hops, "CLASSES": classes}))
                for name, outputs in SHIPPED_OUTPUTS.items():
                    inner = precision if dtype == torch.float32 else "tf32"
                    result.append(_variant(name, name, dtype, inner, width, with_grad, {"OUTPUTS": outputs}))
        sums = dict.fromkeys(("d_sides", "d_left", "d_right"), "*fp32") | {"strips": "*i32"}
        result.append(Variant(f"pair_add_tiles/{width}", jit.add_tiles, sums, {"WIDTH": width, "M": padded_width(width)}, 1, 3))
    return result


def _variant(loss: str, name: str, dtype: torch.dtype, precision: str, width: int, with_grad: bool, constexprs: dict[str, int]) -> Variant:
    inputs = dict.fromkeys(("left", "right", "weight", "bias"), f"*{TRITON_TYPES[dtype]}")
    targets = {"target": "*i8"} if loss == "cross_entropy" else {"target": "*fp32", "place_weight": "*fp32"}
    outputs = {"tiles": "*i32"} | dict.fromkeys(("loss", "d_sides", "d_weight", "d_bias"), "*fp32") | {"num_tiles": "i32"}
    launch = launch_of(loss, dtype, precision, padded_width(width))
    common = {"WIDTH": width, "M": padded_width(width), "GROUP": launch.group, "PRECISION": precision, "WITH_GRAD": with_grad}
    type_name = "tf32" if precision == "tf32" and dtype == torch.float32 else TRITON_TYPES[dtype]
    full_name = f"pair_{name}/{type_name}/{width}/{'with' if with_grad else 'without'} gradient"
    return Variant(full_name, KERNELS[loss], inputs | targets | outputs, constexprs | common, launch.num_warps, launch.num_stages)
