"""Labels far from zero, as total energies are: training and prediction see their differences in full."""

import numpy as np
import pytest

from moleblend_fs.checkpoint.read import load
from moleblend_fs.inference.predict import Runner
from tests.fairseq_plugins.conftest import write_labelled
from tests.fairseq_plugins.runs import ADAM, FINETUNE, NO_DROPOUT, SMALL, train
from tests.model.molecules import ORDINARY

OFFSET, SPREAD = -3_200_000.0, 0.05
"""kJ/mol; float32 resolves 0.25 there."""


def finetuned(folder, offset: float, scale: float):
    values = np.random.default_rng(3).normal(size=3 * len(ORDINARY))
    rows = [(smiles, "valid" if i % 3 == 2 else "train", [offset + scale * values[i]]) for i, smiles in enumerate(ORDINARY * 3)]
    store = write_labelled(folder / "store", rows, {"y": "regression"})
    run = train(store.path, folder / "run", *FINETUNE, *SMALL, *NO_DROPOUT, *ADAM, "--batch-size", "8", "--max-epoch", "2")
    assert run.code == 0, run.output
    parts = Runner().properties(load(folder / "run" / "checkpoint_last.pt"), store, np.arange(len(store)))
    return store, run, np.concatenate([part.values for part in parts])


def test_an_offset_and_a_scale_change_nothing_but_the_units(tmp_path):
    """(value - mean) / std is formed in float64: the loss is that of the same values around zero, the scores are in their unit."""
    _, plain, expected = finetuned(tmp_path / "plain", 0.0, 1.0)
    store, far, predicted = finetuned(tmp_path / "far", OFFSET, SPREAD)
    labels = store.labels(range(len(store)))
    assert labels.dtype == np.float64
    assert len(np.unique(labels)) == len(labels)  # in float32 they would be one or two values
    # 1e-9 of the offset is 0.003; relative to the spread float64 leaves 1e-8.
    assert (predicted - OFFSET) / SPREAD == pytest.approx(expected, abs=1e-4)
    for key, unit in (("valid_loss", 1.0), ("valid_rmse", SPREAD)):
        assert far.column("valid", key) == pytest.approx([unit * x for x in plain.column("valid", key)], abs=2e-3 * unit), key
    assert far.column("train", "train_loss") == pytest.approx(plain.column("train", "train_loss"), abs=2e-3)


def test_quantities_beyond_float32_are_kept(tmp_path):
    """Hyperpolarisabilities in SI units are 1e-51, which float32 makes 0."""
    _, plain, expected = finetuned(tmp_path / "plain", 2.0, 0.5)
    _, tiny, predicted = finetuned(tmp_path / "tiny", 2e-51, 0.5e-51)
    assert predicted * 1e51 == pytest.approx(expected, abs=1e-4)
    assert tiny.column("valid", "valid_loss") == pytest.approx(plain.column("valid", "valid_loss"), abs=2e-3)


def test_statistics_of_equal_values_have_no_spread():
    from moleblend_fs.data.writer import label_statistics

    (found,) = label_statistics(np.full((7, 1), 0.1))
    assert (found.mean, found.std) == (0.1, 0.0)


def test_values_of_another_unit_in_validation_are_told(tmp_path):
    rows = [(smiles, "valid" if i % 3 == 2 else "train", [1e30 if i == 2 else i * 1e-3]) for i, smiles in enumerate(ORDINARY)]
    store = write_labelled(tmp_path / "store", rows, {"y": "regression"})
    run = train(store.path, tmp_path / "run", *FINETUNE, *SMALL, *ADAM, "--batch-size", "8", "--max-epoch", "1")
    assert run.code == 2
    assert "label 'y' of the validation split lies" in run.output
