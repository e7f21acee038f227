"""The two custom ops of the relation bias, and how their kernels are launched.

Shape legend: A atoms, P ordered pairs, H heads, K Gaussians, M the pairs that show a distance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.ops.compile_ahead import interpreted
from moleblend_fs.ops.embedding_rows import FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW, UNREACHABLE_ROW
from moleblend_fs.ops.kernel_common import cdiv, kernel_op
from moleblend_fs.ops.relation_bias.launch_table import Table, empty_table, make_table, table_gradients
from moleblend_fs.ops.relation_bias.launches import EXACT, Launch, launches
from moleblend_fs.ops.relation_bias.weights import RelationWeights
from moleblend_fs.patches import foreach

SPD_GROUPS, ROWS_PER_GROUP = 4, 64
"""The groups of table rows of `tables.table_gradients`."""
ELEMENTS = 256
"""Rows of mul and shift that `atoms.element_gradients` sums, twice."""
WIDER_WITHOUT_GPU = 8
"""Tiles are that many times larger under the interpreter, whose time goes by the number of operations."""


def _launches_for(weights: Sequence[Tensor], precision: str) -> dict[str, Launch]:
    named = RelationWeights(*weights)
    wider = WIDER_WITHOUT_GPU if interpreted() else 1
    return launches(precision, named.spd_table.shape[1], len(named.means), named.hop_table.shape[1], wider)


@kernel_op("moleblend::relation_bias")
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
    points: int = 0,
) -> list[Tensor]:
    """The bias (H, P), the sums (A, K), and the list of pairs that show a distance: their places and x (P,), their number (1,).

    Args:
        points: of a table that the distance encoding is read from, whose parts are given, too (`Table`); 0 for none.
    """
    spd_table, hop_table, mul, shift, means, stds, *layers = weights
    heads, gaussians, pairs, num_atoms = spd_table.shape[1], len(means), len(shown_P), len(wants_A)
    chosen = _launches_for(weights, precision)
    new = shown_P.new_empty
    bias_HP = new(heads, pairs, dtype=torch.float32)
    pair_M, x_M = shown_P.new_zeros(pairs, dtype=torch.int32), shown_P.new_zeros(pairs, dtype=torch.float32)
    blocks = (cdiv(pairs, chosen["look_up"].block),)
    counts = new(blocks, dtype=torch.int32)
    by_head = (spd_table.t().contiguous(), hop_table.permute(2, 0, 1).contiguous())
    chosen["look_up"].run(blocks, shown_P, spd_P, path_P5, *by_head, bias_HP, counts, pairs)
    ends = counts.cumsum(0, dtype=torch.int32)
    count = ends[-1:].clone()
    geometry = (coordinates_A3, element_A, mul, shift)
    molecules = len(cu_atoms) - 1
    sizes = (pairs, molecules, molecules.bit_length())
    chosen["list_distances"].run(blocks, shown_P, counts, ends, *geometry, cu_atoms, cu_pairs, pair_M, x_M, *sizes)
    table = make_table(_launches_for(weights, EXACT), RelationWeights(*weights), count, points) if points else None
    if table is not None:
        read = chosen["add_from_table"]
        programs = (read.programs(shown_P.device),)
        read.run(programs, bias_HP, pair_M, x_M, table.read, table.values_HN, table.points, pairs, points)
    add = chosen["add_distance_bias"]
    computed = count if table is None else table.computed
    add.run((add.programs(shown_P.device),), bias_HP, pair_M, x_M, computed, means, stds, *layers, pairs)
    sums_AK = new(num_atoms, gaussians, dtype=torch.float32)
    places = (atom_molecule, cu_atoms, cu_pairs)
    sums = chosen["sum_gaussians"]
    sums.run((cdiv(num_atoms, sums.block),), wants_A, *geometry, means, stds, *places, sums_AK, num_atoms)
    return [bias_HP, sums_AK, pair_M, x_M, count, *(table or ())]


@relation_bias_forward.register_fake
def _(shown_P, spd_P, path_P5, wants_A, coordinates_A3, element_A, weights, atom_molecule, cu_atoms, cu_pairs, precision, points=0):
    named = RelationWeights(*weights)
    heads, gaussians, pairs = named.spd_table.shape[1], named.means.shape[0], shown_P.shape[0]
    new = shown_P.new_empty
    return [
        new(heads, pairs, dtype=torch.float32),
        new(wants_A.shape[0], gaussians, dtype=torch.float32),
        new(pairs, dtype=torch.int32),
        new(pairs, dtype=torch.float32),
        new(1, dtype=torch.int32),
        *(empty_table(named, points) if points else ()),
    ]


@kernel_op("moleblend::relation_bias_backward")
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
    table: Sequence[Tensor],
    precision: str,
) -> list[Tensor]:
    """Gradients of the weights, in their order; `table` is the forward pass', or empty."""
    named, gradients, d_x_P = RelationWeights(*weights), RelationWeights(*map(torch.empty_like, weights)), torch.empty_like(x_M)
    foreach.zero_([*gradients, d_x_P])
    chosen = _launches_for(weights, precision)
    means, stds = named.means, named.stds
    places, num_atoms = (atom_molecule, cu_atoms, cu_pairs), len(wants_A)
    sums: list[Tensor] = []
    if d_bias_HP is not None:
        _table_gradients(chosen["table_gradients"], gradients, d_bias_HP, shown_P, spd_P, path_P5)
        layers = (means, stds, named.weight1, named.bias1, named.weight2)
        made = Table(*table) if table else None
        works = [(chosen, (d_bias_HP, pair_M, x_M, count if made is None else made.computed, *layers), d_x_P)]
        if made is not None:
            exact = _launches_for(weights, EXACT)
            d_values_HN = table_gradients(exact, made, d_bias_HP, pair_M, x_M, d_x_P)
            works.append((exact, (d_values_HN, made.number_N, made.x_N, made.used, *layers), torch.empty_like(made.x_N)))
        for kernels, inputs, d_x in works:
            sums.append(_partial_sums(kernels["distance_gradients"], x_M, *inputs, d_x, sizes=(inputs[0].shape[1],)))
        _weight_gradients([(kernels["weight_gradients"], inputs) for kernels, inputs, _ in works], gradients)
    if d_sums_AK is not None:
        of_atoms = (d_sums_AK, wants_A, coordinates_A3, element_A, named.mul, named.shift, means, stds, *places, d_x_P)
        sums.append(_partial_sums(chosen["sum_gaussians_gradients"], x_M, *of_atoms, sizes=(num_atoms,)))
    if sums:
        inverse = (stds.abs() + 0.01).reciprocal()
        first, second = torch.cat(sums)[:, :, : len(means)].sum(0)
        torch.mul(first, inverse, out=gradients.means)
        torch.mul(second, inverse * stds.sign(), out=gradients.stds)
    by_element = chosen["element_gradients"]
    programs = by_element.programs(x_M.device)
    partial = x_M.new_empty(programs, 4, ELEMENTS)
    by_element.run((programs,), d_x_P, coordinates_A3, element_A, *places, partial, num_atoms)
    first_rows, second_rows = (slice(row, row + ELEMENTS) for row in (FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW))
    by_element_and_place = [gradient[rows] for gradient in (gradients.mul, gradients.shift) for rows in (first_rows, second_rows)]
    foreach.copy_(by_element_and_place, list(partial.sum(0)))
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


def _weight_gradients(works: list[tuple[Launch, tuple[Tensor, ...]]], gradients: RelationWeights) -> None:
    """Fill in the gradients of the two linear layers: of the listed pairs, of a table's points, or both."""
    launch, (d_bias_HP, *_) = works[0]
    heads = len(d_bias_HP)
    gaussians, k_pad, h_pad = (launch.constexprs[name] for name in ("K", "K_PAD", "H_PAD"))
    chunks, programs = k_pad // launch.constexprs["HIDDEN"], launch.programs(d_bias_HP.device)
    shapes = ((k_pad, k_pad), (h_pad, k_pad), (k_pad,), (chunks, h_pad))
    partials = [d_bias_HP.new_empty(len(works) * programs, *shape) for shape in shapes]
    for number, (launch, inputs) in enumerate(works):
        own = [partial[number * programs : (number + 1) * programs] for partial in partials]
        launch.run((chunks, programs), *inputs, *own, inputs[0].shape[1])
    weight1, weight2, bias1, bias2 = (partial.sum(0) for partial in partials)
    layers = [gradients.weight1, gradients.bias1, gradients.weight2, gradients.bias2]
    foreach.copy_(layers, [weight1[:gaussians, :gaussians], bias1[:gaussians], weight2[:heads, :gaussians], bias2[0, :heads]])
