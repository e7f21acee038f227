"""Transformer-M: the label in its own unit, the noise of molecules in 3D alone, and which label it is."""

import dataclasses

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.objectives.objective import Label
from moleblend_fs.objectives.transformer_m import TransformerM, TransformerMOptions
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import batch_of, graph
from tests.objectives.suite import Case, model_of

CASE = Case(
    variants={"other label": {"transformer_m_label": "mu"}, "label alone": {"transformer_m_noise_weight": 0.0}},
    still={"transformer_m_scale": 1e-12},
    turning=("structure_noise",),
    reached={"": 0.5},
    updates=150,
    rate=1e-2,
)


def test_a_tenth_of_an_electronvolt_and_an_orthogonal_noise():
    """0.1 + 1.0; a molecule without the label, and one without coordinates, count for neither."""
    labels = [[5.6], [5.8], [float("nan")]]
    graphs = [graph("CCO", i, coordinates=i < 2, labels=label) for i, label in enumerate(labels)]
    batch = batch_of([*graphs, *[graph("CCN", 10 + i, labels=[5.6]) for i in range(40)]])
    objective = TransformerM(TransformerMOptions())
    objective.take_labels({"gap": Label(0, 5.7, 1.2, "eV")})
    model = model_of(objective)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()  # the label's mean, and no noise at all
    ready = objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)
    sums = objective.loss_sums(model, ready)
    assert int(ready.counts[0]) == 42
    assert float(sums[0] / ready.counts[0]) == pytest.approx(0.1, abs=1e-9)
    assert float(sums[1] / ready.counts[1]) == pytest.approx(1.0, abs=1e-12)
    shown, noisy = ready.parts.shown, ready.parts.noisy
    assert 0 < int(noisy.sum()) == 3 * int(noisy.view(-1, 3)[:, 0].sum()) < 120, "whole molecules, not all of them"
    assert not (noisy & shown.degree).any(), "in 3D alone"
    assert not noisy[6:9].any()


@pytest.mark.parametrize(("unit", "size"), [("eV", 1.2), ("meV", 0.0012), ("D", 1.0), ("", 1.0), ("hartree", 1.2 * 27.211386245981)])
def test_energies_are_in_electronvolt(unit, size):
    objective = TransformerM(TransformerMOptions())
    objective.take_labels({"gap": Label(0, 5.7, 1.2, unit)})
    assert objective.size == pytest.approx(size, rel=1e-12)


def test_the_label_is_the_gap_the_only_one_or_the_one_that_is_named(qm9_store, tox21_store):
    manifest = qm9_store.manifest

    def of(label="", which=manifest.labels):
        objective = TransformerM(TransformerMOptions(transformer_m_label=label))
        return objective.labels(dataclasses.replace(manifest, labels=tuple(which)))

    others = [label for label in manifest.labels if label.name != "gap"]
    assert of() == ("gap",)
    assert of("mu") == ("mu",)
    assert of(which=others[:1]) == (others[0].name,)
    for label, which in (("nothing", manifest.labels), ("", others), ("", ()), ("", tox21_store.manifest.labels)):
        with pytest.raises(UserError, match="--transformer-m-label"):
            of(label, which)
