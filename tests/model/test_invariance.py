"""A molecule's encoding and its batch mates, its atom order, and its place and orientation in space."""

import copy

import numpy as np
import pytest
import torch

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import reordered
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import HEADS
from moleblend_fs.model.moleblend import MoleBlend, Outputs
from moleblend_fs.model.shown import Shown
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph

CONFIG = ModelConfig(layers=3, embed_dim=48, ffn_dim=48, attention_heads=4, gaussians=16, pair_dim=8, hidden_3d=16, heads=HEADS, tasks=2)
SMILES = (*ORDINARY, *AWKWARD)
PER_PAIR, PER_ATOM = ("spd", "edge", "displacement", "distance", "bias"), ("noise",)


@pytest.fixture(scope="module")
def model() -> MoleBlend:
    torch.manual_seed(0)
    model = MoleBlend(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)  # large enough that attention and relations matter
        for table in (model.relations.spd_table, model.relations.bond_table):
            table.weight[0] = 0
    return model


@pytest.fixture(scope="module")
def double(model) -> MoleBlend:
    """The same model in float64, where rounding hides nothing."""
    double = MoleBlend(CONFIG).double().eval()
    double.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    return double


def relation_of(molecule: int, n: int) -> np.ndarray:
    """(n, n) one of the eight sums of relations per pair, the same for a molecule wherever it is."""
    return np.random.default_rng(molecule).integers(0, 8, size=(n, n)).astype(np.uint8)


def distances_of(molecule: int, n: int) -> np.ndarray:
    return np.random.default_rng(1000 + molecule).random(n) < 0.5


def shown_of(molecules: list[int], batch: MoleculeBatch, orders: dict[int, np.ndarray] | None = None) -> Shown:
    relations, distances = [], []
    for molecule, n in zip(molecules, batch.num_atoms.tolist()):
        order = (orders or {}).get(molecule, np.arange(n))
        relations.append(relation_of(molecule, n)[np.ix_(order, order)].reshape(-1))
        distances.append(distances_of(molecule, n)[order])
    joined = torch.from_numpy(np.concatenate(distances))
    return Shown(
        relations=torch.from_numpy(np.concatenate(relations)), degree=~joined, distances=joined, coordinates=batch.coordinates.double()
    )


def per_molecule(outputs: Outputs, layout: Layout) -> list[dict[str, torch.Tensor]]:
    """Outputs of each molecule: (n, n, ...) per pair, (n, ...) per atom, (n + 1, d) tokens, (tasks,) properties."""
    result, atom, pair, token = [], 0, 0, 0
    for b, n in enumerate(layout.sizes.tolist()):
        part = {name: getattr(outputs, name)[pair : pair + n * n].view(n, n, -1) for name in PER_PAIR}
        part |= {name: getattr(outputs, name)[atom : atom + n] for name in PER_ATOM}
        part["tokens"] = outputs.tokens[token : token + n + 1]
        part["properties"] = outputs.properties[b]
        result.append(part)
        atom, pair, token = atom + n, pair + n * n, token + n + 1
    return result


def run(model: MoleBlend, batch: MoleculeBatch, shown: Shown) -> list[dict[str, torch.Tensor]]:
    layout = Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        return per_molecule(model(batch, shown, layout), layout)


def outputs_of(model: MoleBlend, molecules: list[int]) -> list[dict[str, torch.Tensor]]:
    batch = batch_of([graph(SMILES[m], m) for m in molecules])
    return run(model, batch, shown_of(molecules, batch))


def worst(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest difference of any output, relative to that output's largest value."""
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-3)) for name in theirs)


@pytest.mark.parametrize(("precision", "encoding", "everything"), [("single", 1e-6, 1e-5), ("double", 1e-13, 1e-12)])
def test_batch_mates_do_not_matter(request, precision, encoding, everything):
    """Sums are ordered otherwise for other matrix sizes: that is rounding, which float64 shows to be all of it. The pair heads'
    normalisation of a few numbers magnifies it."""
    model = request.getfixturevalue("model" if precision == "single" else "double")
    everyone = list(range(len(SMILES)))
    alone = {m: outputs_of(model, [m])[0] for m in everyone}
    assert all(part["tokens"].abs().max() > 1 for part in alone.values())
    for seed in range(3):
        order = [*np.random.default_rng(seed).permutation(everyone).tolist(), 3, 3]
        for molecule, part in zip(order, outputs_of(model, order), strict=True):
            assert worst({"tokens": part["tokens"]}, {"tokens": alone[molecule]["tokens"]}) < encoding, SMILES[molecule]
            assert worst(part, alone[molecule]) < everything, SMILES[molecule]
    # Not because all molecules are alike: with another's relations the same molecule is far outside.
    batch = batch_of([graph(SMILES[0], 0)])
    shown = shown_of([0], batch)
    other = Shown(relations=shown.relations.flip(0), degree=shown.degree, distances=shown.distances, coordinates=shown.coordinates)
    assert worst(run(model, batch, other)[0], alone[0]) > 1e-2


def test_molecules_of_one_size_bit_for_bit(model):
    """Same matrix shapes, other neighbours: nothing may leak from one molecule of a bucket to another."""
    two = [ORDINARY[4], "CCN", "CCF"]
    batches = [batch_of([graph(two[0], 0), graph(x, 7)]) for x in two[1:]]
    first, second = (run(model, batch, shown_of([4, 3], batch))[0] for batch in batches)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("molecule", range(len(SMILES)))
def test_atom_order_moves_the_outputs_along(double, molecule):
    graph_ = graph(SMILES[molecule], molecule)
    n = graph_.num_atoms
    order = np.random.default_rng(molecule).permutation(n)
    plain = outputs_of(double, [molecule])[0]
    batch = batch_of([reordered(graph_, order)])
    moved = run(double, batch, shown_of([molecule], batch, {molecule: order}))[0]
    expected = {name: plain[name][order][:, order] for name in PER_PAIR}
    expected |= {name: plain[name][order] for name in PER_ATOM}
    expected["tokens"] = plain["tokens"][np.concatenate([[0], order + 1])]
    expected["properties"] = plain["properties"]
    assert worst(moved, expected) < 1e-10
    if n > 4:
        assert worst(moved, plain) > 1e-2


def random_rotation(seed: int) -> torch.Tensor:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)  # a rotation, not a reflection
    return torch.from_numpy(q)


def test_rotation_and_translation(double):
    """In float64: all outputs are invariant but the noise head's, whose attention-weighted directions rotate.

    Its output is W_a (sum of p u_a v), one row per axis: a rotation mixes the axes' features, not their weights, so that
    what is equivariant is the head with equal rows and no bias.
    """
    double = copy.deepcopy(double)
    head = double.heads["noise"]
    with torch.no_grad():
        head.axes.weight[:] = head.axes.weight[:1].clone()
        head.axes.bias.zero_()
    molecules = list(range(len(SMILES)))
    batch = batch_of([graph(SMILES[m], m) for m in molecules])
    shown = shown_of(molecules, batch)

    def at(coordinates: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        moved = Shown(relations=shown.relations, degree=shown.degree, distances=shown.distances, coordinates=coordinates)
        return run(double, batch, moved)

    rotation, shift = random_rotation(1), torch.tensor([3.0, -40.0, 7.0], dtype=torch.float64)
    coordinates = batch.coordinates.double()
    plain, moved = at(coordinates), at(coordinates @ rotation.T + shift)
    stretched = at(coordinates * 1.1)
    for molecule, before, after, other in zip(molecules, plain, moved, stretched, strict=True):
        invariant = {name: value for name, value in before.items() if name != "noise"}
        assert worst(after, invariant) < 1e-9, SMILES[molecule]
        expected = before["noise"] @ rotation.T
        assert (after["noise"] - expected).abs().max() < 1e-9 * max(1.0, float(expected.abs().max()))
        if len(before["noise"]) > 3:
            assert worst(other, invariant) > 1e-6
            assert (after["noise"] - before["noise"]).abs().max() > 1e-3
