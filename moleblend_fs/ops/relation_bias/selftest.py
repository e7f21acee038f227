"""The relation bias' kernels against plain torch, on the device where they are to run."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from moleblend_fs.data.graph import NUM_BOND_CLASSES
from moleblend_fs.ops.embedding_rows import ELEMENT_ROWS, TABLE_ROWS
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias.autograd import precision, relation_bias
from moleblend_fs.ops.relation_bias.reference import distance_bias, edge_bias, spd_bias
from moleblend_fs.ops.relation_bias.weights import RelationWeights
from moleblend_fs.ops.selftest_tolerance import compare, tolerance_of

POINTS = 1024
"""Of the table that half precision may read distances from; enough for the Gaussians here."""


def self_test(device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> None:
    """Compare both outputs and all gradients with plain torch in float64 on a few small molecules.

    Args:
        dtype: of the model; the kernels compute in float32, of half precision with products in TF32.
        shape: heads and Gaussians.

    Raises:
        OtherNumbers: they differ by more than rounding explains.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    def random_bytes(*shape: int, below: int) -> Tensor:
        return torch.randint(below, shape, generator=generator, dtype=torch.uint8).to(device)

    (heads, gaussians), layout = shape or (6, 40), Layout(torch.tensor([1, 17, 2, 9]), device)
    pairs, num_atoms = layout.num_pairs, layout.num_total_atoms
    path = random_bytes(pairs, 5, below=NUM_BOND_CLASSES)
    what = (random_bytes(pairs, below=8), random_bytes(pairs, below=255) + 1, path, uniform(num_atoms) < 0.6)
    where = (4 * uniform(num_atoms, 3), random_bytes(num_atoms, below=119))
    shapes: tuple[tuple[int, ...], ...] = (
        (TABLE_ROWS, heads),
        (5, NUM_BOND_CLASSES, heads),
        (ELEMENT_ROWS,),
        (ELEMENT_ROWS,),
        (gaussians,),
        (gaussians,),
    )
    shapes += ((gaussians, gaussians), (gaussians,), (heads, gaussians), (heads,))
    weights = [uniform(*shape) - 0.5 for shape in shapes]
    named = RelationWeights(*weights)
    named.spd_table[0] = 0  # the padding row
    weights = list(named._replace(means=3 * uniform(gaussians), stds=0.3 + uniform(gaussians)))
    upstream = (uniform(pairs, heads) - 0.5, uniform(num_atoms, gaussians) - 0.5)

    def results(function: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> list[Tensor]:
        leaves = [weight.to(dtype).requires_grad_() for weight in weights]
        with torch.enable_grad():
            outputs = function(*what, where[0].to(dtype), where[1], leaves, layout)
        return [*outputs, *torch.autograd.grad(outputs, leaves, [u.to(dtype) for u in upstream])]

    names = ("bias", "sums", *(f"d_{name}" for name in RelationWeights._fields))
    title = f"relation_bias kernels on {device} in {precision(dtype)}, {heads} heads, {gaussians} Gaussians"
    tolerance = 2e-2 if precision(dtype) == "tf32" else tolerance_of(torch.float32)
    exact = results(_reference, torch.float64)
    for points in (0, POINTS) if dtype in (torch.bfloat16, torch.float16) else (0,):
        ours = results(functools.partial(relation_bias, model=dtype, points=points), torch.float32)
        compare(f"{title}, table of {points} points" if points else title, names, ours, exact, tolerance)


def _reference(shown_P, spd_P, path_P5, atom_distance_A, coordinates_A3, element_A, weights, layout) -> tuple[Tensor, Tensor]:
    named = RelationWeights(*weights)
    bias_PH = spd_bias(shown_P, spd_P, named.spd_table) + edge_bias(shown_P, spd_P, path_P5, named.hop_table)
    return distance_bias(bias_PH, shown_P, atom_distance_A, coordinates_A3, element_A, named.distance, layout)
