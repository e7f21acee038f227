"""What holds for every objective of the registry and all its variants, whatever it is."""

import dataclasses
import functools
import os
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from fairseq_plugins.criterion import Pretraining
from moleblend_fs.data.batch import GROUP, collate
from moleblend_fs.data.graph import reordered
from moleblend_fs.data.record import decode, encode
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.combined_objectives import Combined
from moleblend_fs.objectives.common import gradients
from moleblend_fs.objectives.common.loss import weighted_loss
from moleblend_fs.objectives.common.to_device import to_device
from moleblend_fs.objectives.registry import objectives
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from tests.model.molecules import AWKWARD, batch_of, graph
from tests.model.test_invariance import random_rotation
from tests.objectives.suite import batch_of_store, case_of, made, mean_losses, model_of, sums_and_counts
from tests.support import forked_ranks
from tests.support.nothing_waits import NothingWaits

VARIANTS = [(name, variant) for name in objectives() for variant in ("", *case_of(name).variants)]
"""Every objective with its defaults, and every variant."""
NAMES = [f"{name} {variant}".strip() for name, variant in VARIANTS]
every_objective = pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=NAMES)
EXACT = 1e-9
"""Relative, in float64: sums of a few hundred terms in another order."""


@pytest.mark.parametrize("name", objectives())
def test_every_choice_is_in_a_variant(name):
    """All that an option may be, so that what holds for every variant holds for all choices."""
    found = objectives()[name]
    made = [found.Options(), *(found.Options(**options) for options in case_of(name).variants.values())]
    for field in dataclasses.fields(found.Options):
        choices = field.metadata.get("choices") or ([False, True] if field.type is bool else [])
        assert set(choices) <= {getattr(options, field.name) for options in made}, field.name


def close(ours, theirs, tolerance=EXACT):
    assert ours.keys() == theirs.keys()
    for term, value in theirs.items():
        assert ours[term] == pytest.approx(value, rel=tolerance, abs=tolerance), term


@pytest.fixture(scope="module")
def by_size(qm9_store):
    """Rows of the store, the smallest molecule first."""
    return np.argsort(np.asarray(qm9_store.num_atoms), kind="stable")


@pytest.fixture(scope="module")
def ordinary(by_size):
    """Rows of 12 molecules of the store, of several sizes."""
    return by_size[[0, 3, 9, 20, 40, 60, 80, 100, 110, 120, 130, 139]]


@every_objective
def test_atom_order_does_not_matter(name, variant, qm9_store, ordinary):
    """Draws move along: they are those of the atoms' first numbers."""
    objective = made(name, variant, qm9_store.manifest)
    model, random = model_of(objective), np.random.default_rng(0)
    plain = batch_of_store(qm9_store, ordinary, name)
    graphs = [decode(record) for record in qm9_store.records(ordinary)]
    orders = [random.permutation(g.num_atoms) for _, g in graphs]
    moved = collate([encode(reordered(g, order), number) for (number, g), order in zip(graphs, orders, strict=True)])
    moved = case_of(name).extra(moved)
    layout = Layout(moved.num_atoms, "cpu")
    numbers = [torch.from_numpy(order) for order in orders]
    vars(layout)["atom_number"] = torch.cat(numbers)
    vars(layout)["pair_place"] = torch.cat([(n.unsqueeze(1) * 65_536 + n).reshape(-1) for n in numbers])
    close(mean_losses(objective, model, moved, layout), mean_losses(objective, model, plain), 1e-7)


@every_objective
def test_molecule_order_does_not_matter(name, variant, qm9_store, ordinary):
    objective = made(name, variant, qm9_store.manifest)
    model, order = model_of(objective), np.random.default_rng(1).permutation(len(ordinary))
    group = torch.tensor([0] * 5 + [1] * 7)
    plain, moved = (batch_of_store(qm9_store, rows, name) for rows in (ordinary, ordinary[order]))
    plain.extra[GROUP], moved.extra[GROUP] = group, group[order]
    losses = mean_losses(objective, model, plain)
    close(mean_losses(objective, model, moved), losses)
    assert (objective.prepare(plain, Layout(plain.num_atoms, "cpu"), seed=3, epoch=2).counts > 0).all(), "molecules that count"


@every_objective
def test_rotation_and_translation_do_not_matter(name, variant, qm9_store, ordinary):
    case = case_of(name)
    objective = made(name, variant, qm9_store.manifest, **case.still)
    model, plain = model_of(objective), batch_of_store(qm9_store, ordinary, name)
    plain = dataclasses.replace(plain, coordinates=plain.coordinates.double())
    turned = dataclasses.replace(plain, coordinates=plain.coordinates @ random_rotation(0).T + torch.tensor([3.0, -1, 2]))
    ours, theirs = mean_losses(objective, model, turned), mean_losses(objective, model, plain)
    for term in case.turning:
        ours.pop(term, None), theirs.pop(term, None)
    close(ours, theirs, 1e-6)


def parts_of(batch_of_rows, rows, cuts):
    """Batches of some rows, whole groups of three each, of uneven sizes."""
    return [batch_of_rows(rows[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


def grouped(store, name, rows):
    batch = batch_of_store(store, rows, name)
    batch.extra[GROUP] = torch.arange(len(batch)) // 3
    return batch


@every_objective
def test_micro_batches_add_up(name, variant, qm9_store, ordinary):
    """One loss and one gradient of a global batch, whole or in pieces of uneven counts."""
    objective = made(name, variant, qm9_store.manifest)
    model, weights = model_of(objective), [term.weight for term in objective.terms()]
    rows = np.random.default_rng(2).permutation(ordinary)
    cut = functools.partial(grouped, qm9_store, name)
    results = []
    for batches in ([cut(rows)], parts_of(cut, rows, [3, 9])):
        each = [sums_and_counts(objective, model, batch) for batch in batches]
        counts = torch.stack([c for _, c in each]).sum(dim=0)
        loss = sum(weighted_loss(sums, counts, weights) for sums, _ in each)
        results.append((float(loss), torch.autograd.grad(loss, list(model.parameters()))))
    (whole, gradients), (pieces, others) = results
    assert pieces == pytest.approx(whole, rel=EXACT)
    largest = max(float(g.abs().max()) for g in gradients)
    assert all(float((a - b).abs().max()) < EXACT * largest for a, b in zip(gradients, others, strict=True))


def rank_of_two(words):
    """Each objective by the criterion on one of two ranks: rank 0 has three molecules, rank 1 six and, in a second micro-batch, three."""
    from moleblend_fs.data.store import Store

    folder, store_path = words
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    store = Store(store_path)
    rows = np.load(f"{folder}/rows.npy")
    mine = [[rows[:3]], [rows[3:9], rows[9:]]][rank]
    results = {f"{name} {variant}".strip(): of_criterion(store, name, variant, mine) for name, variant in VARIANTS}
    for loss, gradient in results.values():
        for tensor in (loss, gradient):
            dist.all_reduce(tensor)
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


def of_criterion(store, name, variant, batches):
    """(loss, gradient) of this rank's share of an update, through the criterion."""
    objective = made(name, variant, store.manifest)
    model = model_of(objective)
    criterion = Pretraining(SimpleNamespace(objective=objective, epoch=2), seed=3)
    criterion.train()
    samples = [{"batch": grouped(store, name, rows)} for rows in batches]
    criterion.begin_update(samples, torch.device("cpu"))
    total = torch.zeros((), dtype=torch.float64)
    wrapped = Wrapped(model)
    for sample in samples:
        loss, _, _ = criterion.compute(wrapped, sample)
        loss.backward()
        total += loss.detach()
    return total, torch.cat([p.grad.reshape(-1) for p in model.parameters()])


class Wrapped(nn.Module):
    """As the plugin's model: called with what is to be computed."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, compute):
        return compute(self.model)


@pytest.mark.slow
def test_two_ranks_are_one(qm9_store, ordinary, tmp_path):
    np.save(tmp_path / "rows.npy", ordinary)
    ranks = forked_ranks.start([str(tmp_path), str(qm9_store.path)], ranks=2, logs=tmp_path / "logs", entry=rank_of_two)
    try:
        assert ranks.wait(240) == [0, 0], ranks.output()[-3000:]
    finally:
        ranks.kill()
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    assert set(results) == set(NAMES)
    for name, variant in VARIANTS:
        loss, gradient = results[f"{name} {variant}".strip()]
        one, whole = of_criterion(qm9_store, name, variant, [ordinary])
        assert float(loss) == pytest.approx(float(one), rel=1e-6), name
        assert float((gradient - whole).abs().max()) <= 1e-6 * float(whole.abs().max()), name


class Held:
    """In place of `gradients.stopped`: gives in every later pass what it was given in the first, so that only what has a gradient moves."""

    def __init__(self):
        self.values, self.place = [], 0

    def again(self):
        self.place = 0

    def __call__(self, x):
        if self.place == len(self.values):
            self.values.append(x.detach())
        self.place += 1
        return self.values[self.place - 1]


@every_objective
def test_gradients(name, variant, qm9_store, ordinary, monkeypatch):
    """Against finite differences in float64, along a random direction of all parameters; what gradients stop at is held."""
    held = Held()
    monkeypatch.setattr(gradients, "stopped", held)
    objective = made(name, variant, qm9_store.manifest)
    model, weights = model_of(objective, spread=0.1), [term.weight for term in objective.terms()]
    batch = batch_of_store(qm9_store, ordinary[3:6], name)
    parameters = list(model.parameters())
    torch.manual_seed(1)
    directions = [torch.randn_like(p) for p in parameters]
    padded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for parameter, direction in zip(parameters, directions, strict=True):
        if id(parameter) in padded:
            direction[0] = 0  # the padding row is no parameter

    def loss():
        held.again()
        return weighted_loss(*sums_and_counts(objective, model, batch), weights)

    slopes = torch.autograd.grad(loss(), parameters)
    slope = sum(float((d * g).sum()) for d, g in zip(directions, slopes, strict=True))

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(step * d)
            value = float(loss())
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(step * d)
        return value

    step = 1e-6
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-5, abs=1e-7)


def step(name, variant, manifest, waiting):
    """Of a model on three molecules. What is prepared on the CPU is there before the device is asked for anything."""
    objective = made(name, variant, manifest)
    labels = [0.25] * len(manifest.labels)
    batch = case_of(name).extra(batch_of([graph(s, i, labels=labels) for i, s in enumerate(("CCCCCCO", "C1CC1", "CO"))]))
    model, layout = model_of(objective).float(), Layout(batch.num_atoms, "cpu")
    with waiting if objective.prepares_on_device else nullcontext():
        ready = objective.prepare(batch, layout, seed=3, epoch=2)
    if not objective.prepares_on_device:
        ready = to_device(ready, torch.device("cpu"))
    with waiting:
        weighted_loss(objective.loss_sums(model, ready), ready.counts, [term.weight for term in objective.terms()]).backward()
        objective.statistics(ready)


@pytest.fixture(scope="module")
def tested_kernel(qm9_store):
    """The kernel behind the bias, which plain torch makes in looking which relations there are, has compared itself with that."""
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOLEBLEND_OPS", "relation_bias=triton")
        step("distance", "", qm9_store.manifest, nullcontext())


@every_objective
def test_a_step_does_not_wait_for_the_device(name, variant, qm9_store, tested_kernel, monkeypatch):
    """Loss, gradients and what is logged ask the device nothing."""
    monkeypatch.setenv("MOLEBLEND_OPS", "relation_bias=triton")
    step(name, variant, qm9_store.manifest, NothingWaits(kernels=False))


@every_objective
def test_what_was_prepared_is_sent_whole(name, variant, qm9_store, ordinary):
    """Every tensor lies on the device but for molecules' sizes, and one that stands in two places is sent once."""
    objective = made(name, variant, qm9_store.manifest)
    batch = batch_of_store(qm9_store, ordinary, name)
    ready = objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=3, epoch=2)
    sent = to_device(ready, torch.device("meta"))
    ours, theirs = dict(tensors_in(sent)), dict(tensors_in(ready))
    assert ours.keys() == theirs.keys()
    assert {t.device.type for path, t in ours.items() if not path.endswith(".num_atoms")} == {"meta"}
    assert all((ours[p].shape, ours[p].dtype) == (theirs[p].shape, theirs[p].dtype) for p in ours)
    by_id = {}
    for path, tensor in theirs.items():
        assert by_id.setdefault(id(tensor), ours[path]) is ours[path], path


def tensors_in(value, path=""):
    """(where, tensor) of everything in what an objective prepared."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from tensors_in(part, f"{path}.{number}")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors_in(part, f"{path}.{key}")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name), f"{path}.{field.name}")


@every_objective
@pytest.mark.parametrize(
    ("smiles", "without_3d"),
    [
        (("C",), ()),
        (("C", "[Na+]", "CO"), ()),
        (("CCO", "CCN"), (0, 1)),
        (("C1CC1", "CCCO", *AWKWARD), (1, 3)),
        (("[Na+].[Cl-]", "C.C"), ()),
        (("Oc1ccccc1",), ()),
    ],
    ids=["a lone atom", "small ones", "no coordinates", "awkward", "no bond", "one molecule"],
)
def test_batches_that_lack_things(name, variant, smiles, without_3d, qm9_store):
    """Losses and gradients are finite, every parameter gets one (distributed training waits for it), and what counts nothing is 0."""
    objective = made(name, variant, qm9_store.manifest)
    labels = [0.25 * i for i in range(len(qm9_store.manifest.labels))]
    batch = batch_of([graph(s, i, coordinates=i not in without_3d, labels=labels) for i, s in enumerate(smiles)])
    model = model_of(objective)
    sums, counts = sums_and_counts(objective, model, case_of(name).extra(batch))
    assert sums.isfinite().all()
    assert (counts >= 0).all()
    assert not sums[counts == 0].any()
    gradients = torch.autograd.grad(sums.sum(), list(model.parameters()), allow_unused=True)
    lacking = [n for (n, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None or not g.isfinite().all()]
    assert lacking == []


def encoders_of(model):
    """The model, and other encoders that an objective gives it as heads."""
    return [module for module in model.modules() if isinstance(module, MoleBlend)]


class Recorder:
    """Stands before a model's `encode`: changes all that a view does not show, and looks whether anything comes out otherwise."""

    def __init__(self, model):
        self.encode = model.encode
        self.passes = 0
        model.encode = self

    def __call__(self, batch, shown, layout):
        tokens, bias = self.encode(batch, shown, layout)
        other_tokens, other_bias = self.encode(self.otherwise(batch, shown, layout), shown, layout)
        assert torch.equal(tokens, other_tokens)
        assert torch.equal(bias, other_bias)
        self.passes += 1
        return tokens, bias

    @staticmethod
    def otherwise(batch, shown, layout):
        """The batch with everything changed that is not shown; coordinates are taken from the view, not from it."""
        hidden = torch.zeros_like(shown.degree) if shown.hidden is None else shown.hidden
        features, degree, spd, path = (x.clone() for x in (batch.atom_features, batch.degree, batch.spd, batch.path_bonds))
        bare = torch.zeros_like(hidden) if shown.bare is None else shown.bare
        features[bare, 1:] = (features[bare, 1:] + 1) % 3
        features[hidden] = (features[hidden] + 1) % 3
        unseen = hidden | ~shown.degree
        degree[unseen] = (degree[unseen] + 1) % 5
        # The number of hops, which spd gives, scales what is seen of the bonds.
        neither = (shown.relations & (SHOW_SPD | SHOW_EDGE)) == 0
        spd[neither] = (spd[neither] + 1) % 7
        no_edge = (shown.relations & SHOW_EDGE) == 0
        path[no_edge] = (path[no_edge] + 1) % 61
        return dataclasses.replace(
            batch,
            atom_features=features,
            degree=degree,
            spd=spd,
            path_bonds=path,
            coordinates=batch.coordinates + 100,
            labels=batch.labels + 1,
        )


@every_objective
@pytest.mark.parametrize("ops", ["reference", "relation_bias=triton"])
def test_what_is_hidden_has_no_path(name, variant, ops, qm9_store, ordinary, monkeypatch):
    """Bit for bit. In 3D views, coordinates that no relation and no atom shows have none either."""
    if "triton" in ops:
        pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    monkeypatch.setenv("MOLEBLEND_OPS", ops)
    objective = made(name, variant, qm9_store.manifest)
    model = model_of(objective).float().eval()
    recorders = [Recorder(encoder) for encoder in encoders_of(model)]
    with torch.no_grad():
        sums_and_counts(objective, model, batch_of_store(qm9_store, ordinary[4:7], name))
    assert all(recorder.passes >= 1 for recorder in recorders)


@every_objective
def test_views_without_structure_see_no_coordinates(name, variant, qm9_store, ordinary):
    objective = made(name, variant, qm9_store.manifest)
    batch = batch_of_store(qm9_store, ordinary[4:7], name)
    model = model_of(objective).eval()

    def encode_elsewhere(plain, batch, shown, layout):
        tokens, bias = plain(batch, shown, layout)
        pairs = (shown.relations & SHOW_DISTANCE) > 0
        used = shown.visible(shown.distances)[layout.pair_row] | pairs
        free = torch.ones_like(shown.degree)
        free[layout.pair_row[used]] = free[layout.pair_column[used]] = False
        moved = dataclasses.replace(shown, coordinates=shown.coordinates + 10 * free.unsqueeze(1))
        assert torch.equal(plain(batch, moved, layout)[0], tokens)
        return tokens, bias

    for encoder in encoders_of(model):
        encoder.encode = functools.partial(encode_elsewhere, encoder.encode)
    with torch.no_grad():
        sums_and_counts(objective, model, batch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in objectives() for variant in case_of(name).reached or ("",)])
def test_eight_molecules_are_learned_by_heart(name, variant, qm9_store, by_size):
    """A tiny model comes near the least loss there is, of molecules of 4 to 12 atoms."""
    case = case_of(name)
    torch.manual_seed(0)
    objective = made(name, variant, qm9_store.manifest)
    wide = {"layers": 1, "embed_dim": 32, "ffn_dim": 32, "attention_heads": 4, "gaussians": 32, "pair_dim": 16, "hidden_3d": 16}
    model = model_of(objective, spread=0.1, **wide).float()
    batch = batch_of_store(qm9_store, by_size[list(case.eight)], name)
    layout = Layout(batch.num_atoms, "cpu")
    ready = objective.prepare(batch, layout, seed=3, epoch=2)
    rate = case.rates.get(variant, case.rate)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=case.updates, pct_start=0.1)
    weights = [term.weight for term in objective.terms()]
    for _ in range(case.updates):
        optimizer.zero_grad()
        loss = weighted_loss(objective.loss_sums(model, ready), ready.counts, weights)
        reached = float(loss.detach())
        if reached < case.reached[variant]:
            break  # however near it would come: most are there after half of the updates
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert reached < case.reached[variant], reached


def test_sums_of_objectives(qm9_store, ordinary):
    """Weighted losses add up, by names of their own."""
    parts = [made(name, "", qm9_store.manifest) for name in objectives()]
    weights = [0.5 + i for i in range(len(parts))]
    both = Combined(parts, weights)
    model = model_of(both)
    batch = batch_of_store(qm9_store, ordinary, parts[0].name)
    for part in parts:
        batch = case_of(part.name).extra(batch)
    sums, counts = sums_and_counts(both, model, batch)
    expected, place = {}, 0
    for part, weight in zip(parts, weights, strict=True):
        alone, own_counts = sums_and_counts(part, model, batch)
        assert torch.equal(sums[place : place + len(alone)], alone), part.name
        assert torch.equal(counts[place : place + len(alone)], own_counts), part.name
        expected |= {f"{part.name}_{term.name}": weight * term.weight for term in part.terms()}
        place += len(alone)
    assert {term.name: term.weight for term in both.terms()} == expected
    assert list(both.statistics(both.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)))
    assert set(both.heads()) == {head for part in parts for head in part.heads()}
    assert both.passes == sum(part.passes for part in parts)


def test_views_that_several_ask_for_are_encoded_once(qm9_store, ordinary):
    parts = [made("distance", "", qm9_store.manifest), made("infograph", "3d", qm9_store.manifest)]
    both = Combined(parts)
    model = model_of(both)
    calls, encode = [], model.encode
    model.encode = lambda *inputs: calls.append(1) or encode(*inputs)
    sums_and_counts(both, model, batch_of_store(qm9_store, ordinary, "distance"))
    assert len(calls) == 1
    sums_and_counts(both, model, batch_of_store(qm9_store, ordinary, "distance"))
    assert len(calls) == 2, "another batch is another pass"


def test_no_objective_is_known_by_name_elsewhere():
    """One file each: its name stands nowhere else in the packages, but for the default."""
    from pathlib import Path

    root = Path(__file__).parents[2]
    own = {objective.__module__.rpartition(".")[2] for objective in objectives().values()}
    for path in [p for package in ("moleblend_fs", "fairseq_plugins") for p in (root / package).rglob("*.py")]:
        if path.parent.name == "objectives" and path.stem in own:
            continue
        for name in set(objectives()) - {"blend_then_predict", "distance"}:
            assert f'"{name}"' not in path.read_text(), f"{path} names {name}"
    assert os.sep not in "".join(objectives())
