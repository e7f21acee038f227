"""The two custom ops of the relation bias, and how their kernels are launched.

Shape legend: A atoms, P ordered pairs, H heads, K Gaussians, M the pairs that show a distance.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.ops.embedding_rows import FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW, UNREACHABLE_ROW
from moleblend_fs.ops.kernel_common import on_its_device
from moleblend_fs.ops.relation_bias import kernels_atoms as atoms
from moleblend_fs.ops.relation_bias import kernels_distance as distance
from moleblend_fs.ops.relation_bias import kernels_tables as tables
from moleblend_fs.ops.relation_bias.weights import RelationWeights

SPD_GROUPS, ROWS_PER_GROUP = 4, 64
"""The groups of table rows of `tables.table_gradients`."""
ELEMENTS = 256
"""Rows of mul and shift that `atoms.element_gradients` sums, twice."""
PROCESSORS_WITHOUT_GPU = 2
"""What stands for the number of multiprocessors under Triton's interpreter: few, so that programs loop."""
WIDER_WITHOUT_GPU = 8
"""Tiles are that many times larger under the interpreter, whose time goes by the number of operations."""


class Launch(NamedTuple):
    """How a kernel runs.

    Attributes:
        kernel: the function under `triton.jit`.
        constexprs: what it is compiled for.
        num_warps: warps per program.
        per_processor: programs per multiprocessor of kernels with a fixed number of programs, else 0.
    """

    kernel: Any
    constexprs: dict[str, Any]
    num_warps: int
    per_processor: int = 0

    @property
    def block(self) -> int:
        return int(self.constexprs["BLOCK"])

    def programs(self, device: torch.device) -> int:
        """The fixed number of programs: a function of the device alone, and so is the order of the sums."""
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else PROCESSORS_WITHOUT_GPU
        return self.per_processor * processors

    def run(self, grid: tuple[int, ...], *arguments: Any) -> None:
        self.kernel[grid](*arguments, **self.constexprs, num_warps=self.num_warps, num_stages=NUM_STAGES)


# The tables that set launch configurations. A fixed number of programs costs partial sums (K^2 floats each for `weights`), so there
# are just enough to fill every multiprocessor. Tiles of the linear layers' kernels are as large as 255 registers a thread allow
# without spilling on sm_80 and sm_90; "tf32x3" holds every operand twice. What the loops load lies in L1 and L2 (at most 80 kB of
# weights), and 8 to 16 warps a multiprocessor hide its latency: no software pipelining.
NUM_STAGES = 1
LISTED_AT_ONCE = 64  # pairs of a block: `look_up` counts them and `list_distances` lists them
LAYERS = {
    # BLOCK pairs, HIDDEN units and CHUNK Gaussians of a product, num_warps, programs per multiprocessor
    ("tf32", "add_distance_bias"): (128, 64, 32, 8, 2),
    ("tf32", "distance_gradients"): (64, 32, 32, 8, 1),
    ("tf32", "weight_gradients"): (32, 64, 16, 8, 1),
    ("tf32x3", "add_distance_bias"): (64, 32, 32, 4, 2),
    ("tf32x3", "distance_gradients"): (32, 32, 32, 8, 1),
    ("tf32x3", "weight_gradients"): (32, 64, 16, 8, 1),
}


def padded(size: int) -> int:
    """The smallest power of two from 16, which products need, that holds a size."""
    return max(16, triton.next_power_of_2(size))


@functools.cache
def launches(precision: str, heads: int, gaussians: int, classes: int, wider: int = 1) -> dict[str, Launch]:
    """The configuration of every kernel, by its name; with tiles `wider` times the ones of a GPU."""
    k = {"K": gaussians, "K_PAD": padded(gaussians)}
    h = {"H": heads, "H_PAD": padded(heads)}
    chosen = {
        "look_up": Launch(tables.look_up, {**h, "CLASSES": classes, "BLOCK": LISTED_AT_ONCE}, 4),
        "list_distances": Launch(tables.list_distances, {"BLOCK": LISTED_AT_ONCE}, 2),
        "table_gradients": Launch(tables.table_gradients, {**h, "BLOCK": 64 if heads <= 32 else 16, "PRECISION": precision}, 4, 1),
        "sum_gaussians": Launch(atoms.sum_gaussians, {**k, "BLOCK": 8}, 4),
        "sum_gaussians_gradients": Launch(atoms.sum_gaussians_gradients, {**k, "BLOCK": 8}, 4, 3),
        "element_gradients": Launch(atoms.element_gradients, {"BLOCK": 16, "COLUMNS": 32}, 8, 2),
    }
    for name in ("add_distance_bias", "distance_gradients", "weight_gradients"):
        block, hidden, chunk, num_warps, per_processor = LAYERS[precision, name]
        if name == "weight_gradients" and heads > 32:
            block, hidden = 16, 32  # a program holds gradients of hidden x (Gaussians + heads)
        sizes = {"BLOCK": block, "HIDDEN": min(hidden, max(16, k["K_PAD"] // 2)), "CHUNK": min(chunk, k["K_PAD"]), "PRECISION": precision}
        chosen[name] = Launch(getattr(distance, name), {**k, **h, **sizes}, num_warps, per_processor)
    for launch in chosen.values():
        launch.constexprs["BLOCK"] *= wider
    return chosen


def _launches_for(weights: Sequence[Tensor], precision: str) -> dict[str, Launch]:
    named = RelationWeights(*weights)
    wider = 1 if named.spd_table.is_cuda else WIDER_WITHOUT_GPU
    return launches(precision, named.spd_table.shape[1], len(named.means), named.hop_table.shape[1], wider)


@torch.library.custom_op("moleblend::relation_bias", mutates_args=())
@on_its_device
def relation_bias_forward(
    shown_P: Tensor,
    spd_P: Tensor,
    path_P5: Tensor,
    wants_A: Tensor,
    coordinates_A3: Tensor,
    element_A: Tensor,
    weights: Sequence[Tensor],
    atom_molecule: Tensor,
    cu_atoms: Tensor,
    cu_pairs: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The bias (H, P), the sums (A, K), and the list of pairs that show a distance: their places and x (P,), their number (1,)."""
    spd_table, hop_table, mul, shift, means, stds, *layers = weights
    heads, gaussians, pairs, num_atoms = spd_table.shape[1], len(means), len(shown_P), len(wants_A)
    chosen = _launches_for(weights, precision)
    new = shown_P.new_empty
    bias_HP = new(heads, pairs, dtype=torch.float32)
    pair_M, x_M = shown_P.new_zeros(pairs, dtype=torch.int32), shown_P.new_zeros(pairs, dtype=torch.float32)
    blocks = (triton.cdiv(pairs, chosen["look_up"].block),)
    counts = new(blocks, dtype=torch.int32)
    by_head = (spd_table.t().contiguous(), hop_table.permute(2, 0, 1).contiguous())
    chosen["look_up"].run(blocks, shown_P, spd_P, path_P5, *by_head, bias_HP, counts, pairs)
    ends = counts.cumsum(0, dtype=torch.int32)
    count = ends[-1:].clone()
    geometry = (coordinates_A3, element_A, mul, shift)
    molecules = len(cu_atoms) - 1
    sizes = (pairs, molecules, molecules.bit_length())
    chosen["list_distances"].run(blocks, shown_P, counts, ends, *geometry, cu_atoms, cu_pairs, pair_M, x_M, *sizes)
    add = chosen["add_distance_bias"]
    add.run((add.programs(shown_P.device),), bias_HP, pair_M, x_M, count, means, stds, *layers, pairs)
    sums_AK = new(num_atoms, gaussians, dtype=torch.float32)
    places = (atom_molecule, cu_atoms, cu_pairs)
    sums = chosen["sum_gaussians"]
    sums.run((triton.cdiv(num_atoms, sums.block),), wants_A, *geometry, means, stds, *places, sums_AK, num_atoms)
    return bias_HP, sums_AK, pair_M, x_M, count


@relation_bias_forward.register_fake
def _(shown_P, spd_P, path_P5, wants_A, coordinates_A3, element_A, weights, atom_molecule, cu_atoms, cu_pairs, precision):
    named = RelationWeights(*weights)
    heads, gaussians, pairs = named.spd_table.shape[1], named.means.shape[0], shown_P.shape[0]
    new = shown_P.new_empty
    return (
        new(heads, pairs, dtype=torch.float32),
        new(wants_A.shape[0], gaussians, dtype=torch.float32),
        new(pairs, dtype=torch.int32),
        new(pairs, dtype=torch.float32),
        new(1, dtype=torch.int32),
    )


@torch.library.custom_op("moleblend::relation_bias_backward", mutates_args=())
@on_its_device
def relation_bias_backward(
    d_bias_HP: Tensor | None,
    d_sums_AK: Tensor | None,
    shown_P: Tensor,
    spd_P: Tensor,
    path_P5: Tensor,
    wants_A: Tensor,
    coordinates_A3: Tensor,
    element_A: Tensor,
    weights: Sequence[Tensor],
    atom_molecule: Tensor,
    cu_atoms: Tensor,
    cu_pairs: Tensor,
    pair_M: Tensor,
    x_M: Tensor,
    count: Tensor,
    precision: str,
) -> list[Tensor]:
    """Gradients of the weights, in their order."""
    named, gradients = RelationWeights(*weights), RelationWeights(*(torch.zeros_like(weight) for weight in weights))
    chosen = _launches_for(weights, precision)
    means, stds = named.means, named.stds
    places, num_atoms = (atom_molecule, cu_atoms, cu_pairs), len(wants_A)
    d_x_P = x_M.new_zeros(len(x_M))
    sums: list[Tensor] = []
    if d_bias_HP is not None:
        _table_gradients(chosen["table_gradients"], gradients, d_bias_HP, shown_P, spd_P, path_P5)
        inputs = (d_bias_HP, pair_M, x_M, count, means, stds, named.weight1, named.bias1, named.weight2)
        sums.append(_partial_sums(chosen["distance_gradients"], x_M, *inputs, d_x_P, sizes=(len(x_M),)))
        _weight_gradients(chosen["weight_gradients"], gradients, inputs)
    if d_sums_AK is not None:
        of_atoms = (d_sums_AK, wants_A, coordinates_A3, element_A, named.mul, named.shift, means, stds, *places, d_x_P)
        sums.append(_partial_sums(chosen["sum_gaussians_gradients"], x_M, *of_atoms, sizes=(num_atoms,)))
    if sums:
        inverse = 1 / (stds.abs() + 0.01)
        first, second = torch.cat(sums)[:, :, : len(means)].sum(0)
        gradients.means.copy_(first * inverse)
        gradients.stds.copy_(second * inverse * stds.sign())
    by_element = chosen["element_gradients"]
    programs = by_element.programs(x_M.device)
    partial = x_M.new_empty(programs, 4, ELEMENTS)
    by_element.run((programs,), d_x_P, coordinates_A3, element_A, *places, partial, num_atoms)
    mul_first, mul_second, shift_first, shift_second = partial.sum(0)
    for gradient, of_first, of_second in ((gradients.mul, mul_first, mul_second), (gradients.shift, shift_first, shift_second)):
        gradient[FIRST_ELEMENT_ROW : FIRST_ELEMENT_ROW + ELEMENTS] = of_first
        gradient[SECOND_ELEMENT_ROW : SECOND_ELEMENT_ROW + ELEMENTS] = of_second
    return list(gradients)


@relation_bias_backward.register_fake
def _(d_bias_HP, d_sums_AK, shown_P, spd_P, path_P5, wants_A, coordinates_A3, element_A, weights, *others):
    return [torch.empty_like(weight) for weight in weights]


def _table_gradients(
    launch: Launch, gradients: RelationWeights, d_bias_HP: Tensor, shown_P: Tensor, spd_P: Tensor, path_P5: Tensor
) -> None:
    """Fill in the gradients of spd_table and hop_table."""
    heads, pairs = d_bias_HP.shape
    groups, programs = SPD_GROUPS + MAX_HOPS, launch.programs(d_bias_HP.device)
    partial = d_bias_HP.new_empty(programs, groups, launch.constexprs["H_PAD"], ROWS_PER_GROUP)
    launch.run((groups, programs), d_bias_HP, shown_P, spd_P, path_P5, partial, pairs)
    by_row = partial.sum(0)[:, :heads].transpose(1, 2)
    by_spd = by_row[:SPD_GROUPS].flatten(0, 1)
    gradients.spd_table[1:256] = by_spd[:255]
    gradients.spd_table[UNREACHABLE_ROW] = by_spd[255]
    gradients.hop_table.copy_(by_row[SPD_GROUPS:, : gradients.hop_table.shape[1]])


def _partial_sums(launch: Launch, like: Tensor, *arguments: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Run a kernel that adds to the gradient of x; its partial sums for the Gaussians, (programs, 2, K_PAD)."""
    programs = launch.programs(like.device)
    partial = like.new_empty(programs, 2, launch.constexprs["K_PAD"])
    launch.run((programs,), *arguments, partial, *sizes)
    return partial


def _weight_gradients(launch: Launch, gradients: RelationWeights, inputs: tuple[Tensor, ...]) -> None:
    """Fill in the gradients of the two linear layers."""
    d_bias_HP = inputs[0]
    heads, pairs = d_bias_HP.shape
    gaussians, k_pad, h_pad = (launch.constexprs[name] for name in ("K", "K_PAD", "H_PAD"))
    chunks, programs = k_pad // launch.constexprs["HIDDEN"], launch.programs(d_bias_HP.device)
    shapes = ((k_pad, k_pad), (h_pad, k_pad), (k_pad,), (chunks, h_pad))
    partials = [d_bias_HP.new_empty(programs, *shape) for shape in shapes]
    launch.run((chunks, programs), *inputs, *partials, pairs)
    weight1, weight2, bias1, bias2 = (partial.sum(0) for partial in partials)
    gradients.weight1.copy_(weight1[:gaussians, :gaussians])
    gradients.bias1.copy_(bias1[:gaussians])
    gradients.weight2.copy_(weight2[:heads, :gaussians])
    gradients.bias2.copy_(bias2[0, :heads])
