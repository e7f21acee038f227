"""The relation bias' kernels against plain torch in float64: outputs and every gradient, over sizes, widths and what is shown."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

pytest.importorskip("triton", reason="triton is not installed")

from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.embedding import RelationEncoder
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops import relation_bias as dispatched
from moleblend_fs.ops.embedding_rows import FIRST_ELEMENT_ROW, HIDDEN, SECOND_ELEMENT_ROW
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import (
    SHOW_DISTANCE,
    SHOW_EDGE,
    SHOW_SPD,
    DistanceWeights,
    RelationWeights,
    autograd,
    selftest,
)
from moleblend_fs.ops.relation_bias import launch as ops
from moleblend_fs.ops.relation_bias.reference import distance_bias, edge_bias, spd_bias
from tests.model.molecules import batch_of, graph

NAMES = ("bias", "sums", *(f"d_{name}" for name in RelationWeights._fields))
TOLERANCE = 2e-5
"""Of a result's largest value. Sums in float32 of up to 90,000 terms, most of them much smaller than their sum, stay below it."""


class Case(NamedTuple):
    """Inputs of the op, weights in float64, and upstream gradients."""

    shown: Tensor
    spd: Tensor
    path: Tensor
    atom_distance: Tensor
    coordinates: Tensor
    element: Tensor
    weights: list[Tensor]
    upstream: tuple[Tensor, Tensor]
    layout: Layout


def make_case(sizes: list[int], heads: int, gaussians: int, device: torch.device, *, bits: str = "any", seed: int = 0) -> Case:
    """Random inputs; `bits` is "any" (sums of relations), "one" (blends) or a number that every pair shows."""
    random = torch.Generator().manual_seed(seed)
    layout = Layout(torch.tensor(sizes), device)
    pairs, atoms = layout.num_pairs, layout.num_total_atoms

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=random, dtype=torch.uint8)

    if bits == "any":
        shown = integers(0, 8, pairs)
    elif bits == "one":
        shown = torch.tensor([SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE], dtype=torch.uint8)[integers(0, 3, pairs).long()]
    else:
        shown = torch.full((pairs,), int(bits), dtype=torch.uint8)
    # Mostly short paths, as in molecules, and some of every length.
    spd = torch.where(integers(0, 4, pairs) > 0, integers(0, 9, pairs), integers(0, 255, pairs) + 1)
    spd_table = normal(512, heads)
    spd_table[0] = 0
    uniform = torch.rand(2, gaussians, generator=random, dtype=torch.float64)
    weights = [
        spd_table,
        normal(5, 61, heads),
        1 + 0.1 * normal(1536),
        0.1 * normal(1536),
        3 * uniform[0],
        (0.2 + 2 * uniform[1]) * normal(gaussians).sign(),
        normal(gaussians, gaussians) * gaussians**-0.5,
        normal(gaussians),
        normal(heads, gaussians) * gaussians**-0.5,
        normal(heads),
    ]
    wants = torch.rand(atoms, generator=random) < 0.6
    case = (shown, spd, integers(0, 61, pairs, 5), wants, 2 * normal(atoms, 3).float(), integers(0, 119, atoms))
    upstream = (normal(pairs, heads).float().to(device), normal(atoms, gaussians).float().to(device))
    return Case(*(x.to(device) for x in case), [w.float().double().to(device) for w in weights], upstream, layout)


def reference(shown, spd, path, atom_distance, coordinates, element, weights, layout) -> tuple[Tensor, Tensor]:
    bias = spd_bias(shown, spd, weights[0]) + edge_bias(shown, spd, path, weights[1])
    return distance_bias(bias, shown, atom_distance, coordinates, element, DistanceWeights(*weights[2:]), layout)


def results(function, case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Both outputs and the gradients of all weights."""
    leaves = [w.to(dtype).requires_grad_() for w in case.weights]
    coordinates = case.coordinates.to(dtype if dtype == torch.float64 else torch.float32)
    outputs = function(
        case.shown, case.spd, case.path, case.atom_distance, coordinates, case.element, RelationWeights(*leaves), case.layout
    )
    gradients = torch.autograd.grad(outputs, leaves, [u.to(o.dtype) for u, o in zip(case.upstream, outputs)])
    return [x.detach() for x in (*outputs, *gradients)]


def errors(ours: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    """Largest differences, in units of the largest exact value (of 1 where that is 0)."""
    return {
        name: float((a.double() - b).abs().max() / (b.abs().max() if b.abs().max() > 0 else 1))
        for name, a, b in zip(NAMES, ours, exact, strict=True)
    }


GRID = [
    ([1], 2, 5, "any"),
    ([2], 3, 16, "7"),
    ([1, 1, 1], 8, 64, "one"),
    ([15], 4, 32, "one"),
    ([16, 2], 17, 33, "any"),
    ([17, 1, 3], 32, 128, "any"),
    ([5, 33], 4, 32, "one"),
    ([51, 1, 16], 8, 20, "7"),
    ([123], 2, 8, "any"),
    ([300], 1, 4, "one"),
    ([9, 8], 64, 128, "3"),
    ([9, 8], 5, 7, "4"),
    ([4, 9], 5, 7, "0"),
]


@pytest.mark.parametrize(("sizes", "heads", "gaussians", "bits"), GRID)
def test_equals_the_reference(sizes, heads, gaussians, bits, device, monkeypatch):
    if max(sizes) > 100:
        monkeypatch.setattr(ops, "WIDER_WITHOUT_GPU", 64)
    case = make_case(sizes, heads, gaussians, device, bits=bits)
    ours, exact = results(autograd.relation_bias, case, torch.float32), results(reference, case, torch.float64)
    found = errors(ours, exact)
    assert max(found.values()) <= TOLERANCE, found


def test_tiles_of_a_gpu(device, monkeypatch):
    """The interpreter has larger tiles only to be faster; here are those that GPUs get, several to a program."""
    monkeypatch.setattr(ops, "WIDER_WITHOUT_GPU", 1)
    case = make_case([19, 3], 4, 32, device)
    found = errors(results(autograd.relation_bias, case, torch.float32), results(reference, case, torch.float64))
    assert max(found.values()) <= TOLERANCE, found


def test_the_tolerance_tells_wrong_from_right(device):
    """One pair's choice, path, distance or element changed: at least ten times the tolerance in what it concerns."""
    case = make_case([17, 40], 4, 32, device, bits="7")
    exact = results(reference, case, torch.float64)
    shown, spd, path, coordinates, element = (x.clone() for x in (case.shown, case.spd, case.path, case.coordinates, case.element))
    shown[400], spd[500], path[600, 0], element[30] = SHOW_DISTANCE, (spd[500] + 1) % 9, (path[600, 0] + 1) % 61, (element[30] + 1) % 119
    coordinates[20] += 1
    concerned = {
        "shown": (case._replace(shown=shown), ("bias", "d_spd_table", "d_hop_table")),
        "spd": (case._replace(spd=spd), ("bias", "d_spd_table")),
        "path": (case._replace(path=path), ("bias", "d_hop_table")),
        "element": (case._replace(element=element), ("bias", "sums", "d_mul", "d_shift", "d_means", "d_stds", "d_weight1")),
        "coordinates": (case._replace(coordinates=coordinates), ("bias", "sums", "d_mul", "d_means", "d_stds", "d_weight1", "d_weight2")),
    }
    for what, (changed, names) in concerned.items():
        found = errors(results(reference, changed, torch.float64), exact)
        assert all(found[name] >= 10 * TOLERANCE for name in names), (what, found)


def test_hidden_atoms(device):
    """Their row of the mul and shift tables lies beyond all elements: it is read, and gets its gradient."""
    case = make_case([17, 5], 4, 32, device, bits="7")
    case.element[::3] = HIDDEN
    exact = results(reference, case, torch.float64)
    found = errors(results(autograd.relation_bias, case, torch.float32), exact)
    assert max(found.values()) <= TOLERANCE, found
    d_mul = dict(zip(NAMES, exact, strict=True))["d_mul"]
    assert d_mul[FIRST_ELEMENT_ROW + HIDDEN] != 0
    assert d_mul[SECOND_ELEMENT_ROW + HIDDEN] != 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype, device):
    """Computed in float32 from the rounded weights; gradients come in the weights' type, rounded once."""
    case = make_case([7, 16], 4, 32, device)
    rounded = case._replace(weights=[w.to(dtype).double() for w in case.weights])
    ours, exact = results(autograd.relation_bias, case, dtype), results(reference, rounded, torch.float64)
    assert [x.dtype for x in ours] == [torch.float32] * 2 + [dtype] * 10
    found = errors(ours, exact)
    assert max(found["bias"], found["sums"]) <= TOLERANCE, found
    assert max(found.values()) <= torch.finfo(dtype).eps / 2 + TOLERANCE, found


@pytest.fixture
def tf32_allowed():
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("tf32_allowed")
def test_tf32(device):
    """Products of TF32 where torch's own may be: a thousandth of the largest value on a GPU. The interpreter rounds nothing."""
    case = make_case([17, 16], 4, 32, device)
    assert autograd.precision() == "tf32"
    found = errors(results(autograd.relation_bias, case, torch.float32), results(reference, case, torch.float64))
    assert max(found.values()) <= 5e-3, found


@pytest.mark.parametrize(
    ("model", "products"), [(torch.float32, "tf32x3"), (torch.bfloat16, "tf32"), (torch.float16, "tf32")], ids=["float32", "bf16", "fp16"]
)
def test_models_in_half_precision_have_products_in_tf32(model, products, device, monkeypatch):
    """From the model's weights to the launches of both passes; the bias stays float32."""
    monkeypatch.setenv("MOLEBLEND_OPS", "relation_bias=triton")
    asked = []
    chosen = ops.launches
    monkeypatch.setattr(ops, "launches", lambda precision, *sizes: asked.append(precision) or chosen(precision, *sizes))
    case = make_case([5, 2], 4, 32, device, bits="one")
    found = errors(results(partial(dispatched.relation_bias, model=model), case, torch.float32), results(reference, case, torch.float64))
    assert max(found.values()) <= (TOLERANCE if model == torch.float32 else 5e-3), found
    assert asked[-2:] == [products] * 2
    config = ModelConfig(attention_heads=4, embed_dim=64, gaussians=32)
    encoder, given = RelationEncoder(config).to(device, model), batch_of([graph("CCO", 0)]).to(device)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    asked.clear()
    layout = Layout(given.num_atoms.cpu(), device)
    bias, _ = encoder(given, show_all(given, layout, "2d+3d"), layout)
    assert asked[-1] == products
    assert bias.dtype == torch.float32


def test_dispatched(device, monkeypatch):
    """MOLEBLEND_OPS reaches the kernels, with the self-test on the way, and the plain version."""
    case = make_case([5, 12], 4, 32, device, bits="one")
    monkeypatch.setenv("MOLEBLEND_OPS", "relation_bias=triton")
    ours = results(dispatched.relation_bias, case, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(ours, results(autograd.relation_bias, case, torch.float32), strict=True))
    monkeypatch.setenv("MOLEBLEND_OPS", "reference")
    plain = results(dispatched.relation_bias, case, torch.float32)
    assert plain[0].is_contiguous()  # (P, H), unlike the kernels' bias
    for gradients in (ours, plain):
        gradients[NAMES.index("d_hop_table")][:, 0] = 0  # of "no bond", which is always 0 and learns nothing: one version passes it over
    found = errors(ours, [x.double() for x in plain])
    assert max(found.values()) <= 2 * TOLERANCE, found


def test_bias_is_stored_by_head(device):
    case = make_case([7, 5], 4, 32, device)
    bias, _ = results(autograd.relation_bias, case, torch.float32)[:2]
    assert bias.shape == (74, 4)
    assert bias.t().is_contiguous()
    assert not bias.is_contiguous()


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_alone(used, device):
    """The other's gradient is then absent."""
    case = make_case([7, 16], 3, 32, device)

    def gradients(function, dtype):
        leaves = [w.to(dtype).requires_grad_() for w in case.weights]
        outputs = function(*case[:4], case.coordinates.to(dtype), case.element, leaves, case.layout)
        return torch.autograd.grad(outputs[used], leaves, case.upstream[used].to(dtype), materialize_grads=True)

    for name, ours, exact in zip(NAMES[2:], gradients(autograd.relation_bias, torch.float32), gradients(reference, torch.float64)):
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=TOLERANCE * max(1.0, float(exact.abs().max())), msg=name)


def test_same_bits_every_time_and_for_any_stride_of_the_upstream_gradient(device):
    case = make_case([17, 30, 3], 4, 32, device)
    by_head = case._replace(upstream=(case.upstream[0].t().contiguous().t(), case.upstream[1]))
    first = results(autograd.relation_bias, case, torch.float32)
    for other in (case, by_head):
        for name, a, b in zip(NAMES, first, results(autograd.relation_bias, other, torch.float32), strict=True):
            assert torch.equal(a, b), name


def test_checkpointed(device):
    """Recomputed in backward, twice in a row: the same bits."""
    case = make_case([6, 9], 4, 16, device)

    def recomputed(*arguments):
        *inputs, weights, layout = arguments
        return checkpoint(lambda *w: autograd.relation_bias(*inputs, w, layout), *weights, use_reentrant=False)

    plain = results(autograd.relation_bias, case, torch.float32)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(plain, results(recomputed, case, torch.float32), strict=True))


def test_traced_without_breaks(device):
    """torch.compile takes the whole op, forward and backward, into its graphs."""
    case = make_case([3, 4], 4, 16, device)
    layout = case.layout
    _ = layout.atom_molecule, layout.cu_atoms, layout.cu_pairs  # made on first use, which cannot be traced
    compiled = torch.compile(lambda *inputs: autograd.relation_bias(*inputs, layout), backend="aot_eager", fullgraph=True)
    plain = results(autograd.relation_bias, case, torch.float32)
    traced = results(lambda *arguments: compiled(*arguments[:-1]), case, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))


def test_custom_ops(device):
    """Schemas, fakes and registrations, by torch's own checks."""
    case = make_case([3, 17], 4, 16, device)
    weights = [w.float() for w in case.weights]
    layout = case.layout
    inputs = (case.shown, case.spd, case.path, case.atom_distance.view(torch.uint8), case.coordinates, case.element)
    places = (layout.atom_molecule, layout.cu_atoms, layout.cu_pairs)
    torch.library.opcheck(torch.ops.moleblend.relation_bias, (*inputs, weights, *places, "tf32x3"))
    listed = ops.relation_bias_forward(*inputs, weights, *places, "tf32x3")[2:]
    d_bias, d_sums = case.upstream[0].t().contiguous(), case.upstream[1]
    for upstream in ((d_bias, d_sums), (None, d_sums), (d_bias, None)):
        torch.library.opcheck(torch.ops.moleblend.relation_bias_backward, (*upstream, *inputs, weights, *places, *listed, [], "tf32x3"))


def test_list_of_distances(device, monkeypatch):
    """All pairs that show a distance, in order, across several blocks; no others count."""
    monkeypatch.setattr(ops, "WIDER_WITHOUT_GPU", 1)
    case = make_case([20, 1, 13], 2, 8, device, bits="one")
    layout = case.layout
    places = (layout.atom_molecule, layout.cu_atoms, layout.cu_pairs)
    inputs = (case.shown, case.spd, case.path, case.atom_distance.view(torch.uint8), case.coordinates, case.element)
    _, _, pair, _, count = ops.relation_bias_forward(*inputs, [w.float() for w in case.weights], *places, "tf32")
    expected = (case.shown == SHOW_DISTANCE).nonzero().squeeze(1)
    assert int(count) == len(expected) > 128
    assert torch.equal(pair[: int(count)].long(), expected)


def test_refusals(device):
    case = make_case([3], 2, 8, device)
    with pytest.raises(ValueError, match="float64"):
        autograd.relation_bias(*case[:6], case.weights, case.layout)
    wide = make_case([3], 2, 257, device)
    with pytest.raises(ValueError, match="at most 256 Gaussians, got 257"):
        autograd.relation_bias(*wide[:6], [w.float() for w in wide.weights], wide.layout)


def test_self_test(device, monkeypatch):
    """It passes, and fails on one wrong number in a hundred."""
    selftest.self_test(device)
    right = autograd.relation_bias

    def wrong(*arguments, **options):
        bias, sums = right(*arguments, **options)
        return bias, sums * torch.where(torch.arange(len(sums), device=device) == 3, 1.1, 1.0).unsqueeze(1)

    monkeypatch.setattr(selftest, "relation_bias", wrong)
    with pytest.raises(RuntimeError, match=r"relation_bias kernels on .*: off by .*sums 0\.0[0-9]+,"):
        selftest.self_test(device)
