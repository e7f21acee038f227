"""Launches of the pair losses' kernels, as custom ops: how a batch is cut up, and which configurations run.

Shape legend: A atoms, P pairs, m pair width, C outputs, K classifications per pair.
"""

import functools
import math
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.ops.kernel_common import dot_precision, kernel_op, padded
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection import kernels as jit

TILE = 16
MAX_WIDTH = 64
PROCESSORS_WITHOUT_GPU = 3


class Launch(NamedTuple):
    """Tiles that a program works on together, Triton's num_warps and num_stages, and programs for each multiprocessor."""

    group: int
    num_warps: int
    num_stages: int
    per_processor: int = 1


# A program reads all of W and rewrites its own dW (both from the L2 cache, 1.4 MB at C = 120, m = 32) once for each group of
# tiles: groups should be large. One tile to a warp keeps z, dz and the sides in registers, and 8 warps of 170-255 registers
# fill a multiprocessor, so one program runs on each; of classes in half precision at the presets' widths two of four warps, which
# take 0.76 of the time on an H100. Exact float32 products run on the plain arithmetic units and need twice the registers. m = 64 is
# in no preset and spills a few registers on sm_80; it is there to be right.
LAUNCHES = {
    ("cross_entropy", "16 bit", 32): Launch(4, 4, 3, 2),
    ("cross_entropy", "16 bit", 64): Launch(2, 8, 1),
    ("cross_entropy", "tf32", 32): Launch(4, 8, 2),
    ("cross_entropy", "tf32", 64): Launch(2, 8, 1),
    ("cross_entropy", "ieee", 32): Launch(4, 8, 1),
    ("cross_entropy", "ieee", 64): Launch(1, 8, 1),
    ("cosine", "tf32", 32): Launch(4, 8, 1),
    ("cosine", "tf32", 64): Launch(1, 8, 1),
    ("cosine", "ieee", 32): Launch(4, 8, 1),
    ("cosine", "ieee", 64): Launch(1, 8, 1),
    ("smooth_l1", "tf32", 32): Launch(4, 8, 1),
    ("smooth_l1", "tf32", 64): Launch(1, 8, 1),
    ("smooth_l1", "ieee", 32): Launch(4, 4, 1),
    ("smooth_l1", "ieee", 64): Launch(1, 8, 1),
}
"""(loss, products, largest padded width) -> launch."""
KERNELS = {"cross_entropy": jit.cross_entropy, "cosine": jit.geometry, "smooth_l1": jit.geometry}


def launch_of(loss: str, dtype: torch.dtype, precision: str, padded: int) -> Launch:
    """The launch for inputs of a type and a padded width."""
    products = "16 bit" if loss == "cross_entropy" and dtype != torch.float32 else precision
    return LAUNCHES[loss, products, max(padded, 32)]


def product_precision(loss: str, dtype: torch.dtype) -> str:
    """Geometry's products are in TF32 for half-precision inputs, which it holds exactly: the results' range matters there."""
    return "tf32" if loss != "cross_entropy" and dtype != torch.float32 else dot_precision(dtype)


def padded_width(width: int) -> int:
    """The least power of two from 16 that holds m."""
    if width > MAX_WIDTH:
        raise ValueError(f"the pair projection's kernels hold pair widths up to {MAX_WIDTH}, got {width}; use the reference")
    return padded(width)


class Plan(NamedTuple):
    """A batch cut into tiles of 16 x 16 pairs.

    Attributes:
        tiles: (tiles, 5) int32, as `jit.TILE_FIELDS` says; row-major within each molecule.
        strips: (strips, 5) int32, as `jit.STRIP_FIELDS` says.
    """

    tiles: Tensor
    strips: Tensor


_plans: WeakKeyDictionary[Layout, Plan] = WeakKeyDictionary()  # state: kept for as long as their layouts are


def plan_of(layout: Layout) -> Plan:
    """The layout's tiles, made once for all heads."""
    if layout not in _plans:
        _plans[layout] = _plan(layout)
    return _plans[layout]


def _plan(layout: Layout) -> Plan:
    sizes = layout.sizes
    across = -(-sizes // TILE)
    counts = across**2
    starts = np.concatenate([[0], np.cumsum(counts)])
    if max(starts[-1] * 2 * TILE * MAX_WIDTH, layout.num_pairs * 8) >= 2**31:
        raise ValueError(f"a batch of {layout.num_pairs} pairs is too large for 32-bit indices; use smaller batches")
    molecule = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(starts[-1]) - starts[molecule]
    row, column = np.divmod(number, across[molecule])
    tiles = np.stack([layout.atom_starts[molecule], sizes[molecule], row * TILE, column * TILE, layout.pair_starts[molecule]], axis=1)
    molecule = np.repeat(np.arange(len(sizes)), across)
    number = np.arange(len(molecule)) - np.repeat(np.cumsum(across) - across, across)
    left_over = sizes[molecule] - number * TILE
    strips = np.stack([layout.atom_starts[molecule] + number * TILE, left_over, starts[molecule], across[molecule], number], axis=1)
    return Plan(*(_send(torch.from_numpy(a.astype(np.int32)), layout.device) for a in (tiles, strips)))


def _send(x: Tensor, device: torch.device) -> Tensor:
    """From pinned memory, so that the host need not wait."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return PROCESSORS_WITHOUT_GPU


Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""The loss and the gradients in left, right, weight and bias, all float32; empty gradients where none are wanted."""


def _run(name: str, inputs: list[Tensor], plan: Plan, with_grad: bool, constexprs: dict[str, int]) -> Sums:
    """Launch a loss's kernel and add up its programs' and tiles' shares; `inputs` begin with left, right, weight, bias."""
    left, _, weight, _ = inputs[:4]
    outputs, width, _ = weight.shape
    padded, precision = padded_width(width), product_precision(name, left.dtype)
    launch = launch_of(name, left.dtype, precision, padded)
    tiles, group = len(plan.tiles), launch.group
    programs = min(launch.per_processor * _processors(left.device), -(-tiles // group))
    loss = left.new_empty((programs, group), dtype=torch.float32)
    d_sides = left.new_empty((tiles * with_grad, 2, TILE, padded), dtype=torch.float32)
    of_form = [(programs * with_grad, outputs, padded, padded), (programs * with_grad, outputs, group)]
    zeros = left.new_zeros(sum(map(math.prod, of_form)), dtype=torch.float32).split([math.prod(shape) for shape in of_form])
    d_weight, d_bias = (part.view(shape) for part, shape in zip(zeros, of_form, strict=True))
    KERNELS[name][(programs,)](
        *inputs, plan.tiles, loss, d_sides, d_weight, d_bias, tiles,
        **constexprs, WIDTH=width, M=padded, GROUP=group, PRECISION=precision, WITH_GRAD=with_grad,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    if not with_grad:
        none = [left.new_empty(0, dtype=torch.float32) for _ in range(4)]
        return loss.sum(), none[0], none[1], none[2], none[3]
    d_left, d_right = (torch.empty_like(left, dtype=torch.float32) for _ in range(2))
    jit.add_tiles[(len(plan.strips),)](d_sides, plan.strips, d_left, d_right, WIDTH=width, M=padded, num_warps=1)
    return loss.sum(), d_left, d_right, d_weight.sum(0)[:, :width, :width].contiguous(), d_bias.sum((0, 2))


@kernel_op("moleblend::pair_cross_entropy")
def cross_entropy_op(
    left: Tensor, right: Tensor, weight: Tensor, bias: Tensor, target: Tensor, tiles: Tensor, strips: Tensor, with_grad: bool
) -> Sums:
    hops = target.shape[1]
    constexprs = {"HOPS": hops, "CLASSES": weight.shape[0] // hops}
    return _run("cross_entropy", [left, right, weight, bias, target], Plan(tiles, strips), with_grad, constexprs)


@kernel_op("moleblend::pair_geometry")
def geometry_op(
    left: Tensor,
    right: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    place_weight: Tensor,
    tiles: Tensor,
    strips: Tensor,
    with_grad: bool,
) -> Sums:
    inputs = [left, right, weight, bias, target, place_weight]
    name = "smooth_l1" if weight.shape[0] == 1 else "cosine"
    return _run(name, inputs, Plan(tiles, strips), with_grad, {"OUTPUTS": weight.shape[0]})


def _fake(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> Sums:
    def gradient(x: Tensor) -> Tensor:
        return x.new_empty(x.shape if others[-1] else (0,), dtype=torch.float32)

    return left.new_empty((), dtype=torch.float32), gradient(left), gradient(right), gradient(weight), gradient(bias)


cross_entropy_op.register_fake(_fake)
geometry_op.register_fake(_fake)
