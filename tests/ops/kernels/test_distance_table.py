"""The kernels of the distance encoding's table against the same table in plain torch in float64, and against no table."""

from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.embedding import RelationEncoder
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops.embedding_rows import HIDDEN
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, DistanceWeights, autograd, launch_table, selftest
from moleblend_fs.ops.relation_bias import launch as ops
from moleblend_fs.ops.relation_bias.reference import edge_bias, spd_bias
from moleblend_fs.ops.relation_bias.table import distance_bias_from_table
from tests.model.molecules import batch_of, graph
from tests.ops.kernels.test_relation_bias import NAMES, Case, errors, make_case, reference, results

TOLERANCE = {name: 3e-4 if name in ("d_mul", "d_shift") else 2e-5 for name in NAMES}
"""Of a result's largest value. The gradient of x is a slope of the table: a difference of values in float32 over a small step."""


def kernels(points):
    return partial(autograd.relation_bias, points=points)


def in_torch(points):
    def table(shown, spd, path, atom_distance, coordinates, element, weights, layout):
        bias = spd_bias(shown, spd, weights[0]) + edge_bias(shown, spd, path, weights[1])
        given = (bias, shown, atom_distance, coordinates, element, DistanceWeights(*weights[2:]), layout)
        return distance_bias_from_table(*given, points)

    return table


def forward(case: Case, points: int, precision: str = "tf32x3") -> list[torch.Tensor]:
    """All that the forward op gives."""
    places = (case.layout.atom_molecule, case.layout.cu_atoms, case.layout.cu_pairs)
    inputs = (case.shown, case.spd, case.path, case.atom_distance.view(torch.uint8), case.coordinates, case.element)
    return ops.relation_bias_forward(*inputs, [w.float() for w in case.weights], *places, precision, points)


def counts(case: Case, points: int) -> list[int]:
    """Pairs that are read from the table, pairs that are computed, points in use."""
    return [int(number) for number in forward(case, points)[5:8]]


def check(case: Case, points: int, exact) -> None:
    found = errors(results(kernels(points), case, torch.float32), results(exact, case, torch.float64))
    assert all(found[name] <= TOLERANCE[name] for name in NAMES), found


@pytest.mark.parametrize(
    ("sizes", "heads", "gaussians", "bits", "points"),
    [
        ([2], 3, 16, "7", 256),
        ([17, 1, 3], 4, 32, "any", 700),
        ([16, 2], 17, 33, "one", 512),
        ([5, 21], 32, 128, "one", 512),
        ([9, 3], 64, 40, "4", 401),
        ([4, 9], 5, 7, "3", 256),
    ],
)
def test_equals_the_table_in_plain_torch(sizes, heads, gaussians, bits, points, device):
    """Also where the points are no multiple of a block; `errors` of another number of points are far larger, see below."""
    case = make_case(sizes, heads, gaussians, device, bits=bits)
    listed = int(((case.shown & SHOW_DISTANCE) > 0).sum())
    assert counts(case, points) == [listed, 0, points]
    check(case, points, in_torch(points))


def test_another_table_is_seen(device):
    """Half of the points: its error is what tells a wrong place or weight of a point from a right one."""
    case = make_case([5, 33], 4, 16, device, bits="one")
    found = errors(results(in_torch(64), case, torch.float64), results(in_torch(256), case, torch.float64))
    assert all(found[name] > 3 * TOLERANCE[name] for name in ("bias", "d_mul", "d_means", "d_stds")), found


def test_tiles_of_a_gpu_and_many_pairs_in_one_cell(device, monkeypatch):
    """All atoms but one in one place: nearly all pairs of an element lie in one cell, which several programs share."""
    monkeypatch.setattr(ops, "WIDER_WITHOUT_GPU", 1)
    monkeypatch.setattr(launch_table, "SHARING_WITHOUT_GPU", 3)
    case = make_case([13, 3], 4, 16, device, bits="7")
    case.coordinates[1:] = 0
    case.element[:] = 6
    assert counts(case, 256) == [178, 0, 256]
    check(case, 256, in_torch(256))


def test_what_lies_beyond_all_gaussians(device):
    case = make_case([9, 4], 4, 16, device, bits="7")
    case.coordinates[3] += 1e4
    case.element[::3] = HIDDEN
    assert counts(case, 512)[0] > 0
    check(case, 512, in_torch(512))


def test_pairs_are_computed_where_the_table_is_too_coarse(device):
    """The bias has the same bits as without a table."""
    case = make_case([7, 5], 4, 16, device, bits="any")
    case.weights[5][3] = 0.0
    listed = int(((case.shown & SHOW_DISTANCE) > 0).sum())
    assert counts(case, 256) == [0, listed, 0]
    assert torch.equal(*(results(kernels(points), case, torch.float32)[0] for points in (256, 0)))
    check(case, 256, reference)


def test_coordinates_that_are_not_numbers_are_not_hidden(device):
    case = make_case([4], 2, 8, device, bits="4")
    case.coordinates[1] = torch.nan
    bias, _, d_mul = (results(kernels(256), case, torch.float32)[n] for n in (0, 1, 4))
    assert bias.isnan().any(1).tolist() == [i == 1 or j == 1 for i in range(4) for j in range(4)]
    assert d_mul.isnan().any()


@pytest.fixture
def matmul_by_rows(monkeypatch):
    """The interpreter's product of matrices, whose rows numpy rounds by their place on some processors (AVX2), as a GPU does not."""
    monkeypatch.setattr(np, "matmul", lambda a, b, dtype: (a.astype(dtype)[..., None] * b.astype(dtype)[..., None, :, :]).sum(axis=-2))


def test_same_bits_every_time_and_in_every_batch(device, matmul_by_rows):
    """For any stride of the upstream gradient; and a molecule's bias is the same alone: the table comes from the weights."""
    case = make_case([17, 12, 3], 4, 16, device, bits="one")
    by_head = case._replace(upstream=(case.upstream[0].t().contiguous().t(), case.upstream[1]))
    first = results(kernels(256), case, torch.float32)
    for other in (case, by_head):
        for name, a, b in zip(NAMES, first, results(kernels(256), other, torch.float32), strict=True):
            assert torch.equal(a, b), name
    pairs, atoms = slice(17**2, 17**2 + 12**2), slice(17, 29)
    alone = case._replace(
        **{name: getattr(case, name)[pairs] for name in ("shown", "spd", "path")},
        **{name: getattr(case, name)[atoms] for name in ("atom_distance", "coordinates", "element")},
        upstream=(case.upstream[0][pairs], case.upstream[1][atoms]),
        layout=Layout(torch.tensor([12]), device),
    )
    assert torch.equal(results(kernels(256), alone, torch.float32)[0], first[0][pairs])


def test_custom_ops(device):
    case = make_case([3, 4], 2, 4, device)
    weights = [w.float() for w in case.weights]
    layout = case.layout
    inputs = (case.shown, case.spd, case.path, case.atom_distance.view(torch.uint8), case.coordinates, case.element)
    places = (layout.atom_molecule, layout.cu_atoms, layout.cu_pairs)
    torch.library.opcheck(torch.ops.moleblend.relation_bias, (*inputs, weights, *places, "tf32", 64))
    pair, x, count, *table = forward(case, 64, "tf32")[2:]
    upstream = (case.upstream[0].t().contiguous(), case.upstream[1])
    torch.library.opcheck(torch.ops.moleblend.relation_bias_backward, (*upstream, *inputs, weights, *places, pair, x, count, table, "tf32"))


@pytest.mark.parametrize(
    ("dtype", "asked", "points"), [(torch.bfloat16, 64, 64), (torch.float16, 64, 64), (torch.float32, 64, 0), (torch.bfloat16, 0, 0),
                                   (torch.bfloat16, 4096, 0)],
)  # fmt: skip
def test_half_precision_with_more_pairs_than_points_reads_a_table(dtype, asked, points, device, monkeypatch):
    """From a model's option to the op."""
    monkeypatch.setenv("MOLEBLEND_OPS", "relation_bias=triton")
    monkeypatch.setattr("moleblend_fs.ops.dispatch._tested", lambda *arguments: None)
    asked_for = []
    op = autograd.relation_bias_forward
    monkeypatch.setattr(autograd, "relation_bias_forward", lambda *arguments: asked_for.append(arguments[-1]) or op(*arguments))
    encoder = RelationEncoder(ModelConfig(attention_heads=4, embed_dim=64, gaussians=16, distance_table=asked)).to(device, dtype)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    given = batch_of([graph("CCCCCCCCO", 0)]).to(device)
    layout = Layout(given.num_atoms.cpu(), device)
    assert layout.num_pairs == 81
    encoder(given, show_all(given, layout, "2d+3d"), layout)
    assert asked_for == [points]


def test_self_test(device, monkeypatch):
    """In half precision it looks at the table, too, and sees a number that is wrong there alone."""
    selftest.self_test(device, torch.bfloat16, (4, 16))
    right = autograd.relation_bias

    def wrong(*arguments, points, **options):
        bias, sums = right(*arguments, points=points, **options)
        return bias * (1.1 if points else 1.0), sums

    monkeypatch.setattr(selftest, "relation_bias", wrong)
    with pytest.raises(RuntimeError, match=r"table of 1024 points.*: off by .*bias 0\.[0-9]+,"):
        selftest.self_test(device, torch.bfloat16, (4, 16))
