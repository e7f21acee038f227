"""Training and validation on splits of any name, and on several together."""

import logging

import numpy as np
import pytest

from fairseq_plugins import splits
from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.splits import TRAIN
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from tests.fairseq_plugins.conftest import write_labelled
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, train
from tests.model.molecules import ORDINARY

NAN = float("nan")
SIZES = {"fold0": 8, "fold1": 4, "held out": 5, "other": 3}
FIRST = {"fold0": 10.0, "fold1": -3.0, "held out": 1.0, "other": 2.0}


@pytest.fixture(scope="module")
def folds(tmp_path_factory) -> Store:
    """No split is called train or valid; labels of other sizes in each, some missing; `empty` has a label in one fold only."""
    rows = []
    for name, size in SIZES.items():
        for i in range(size):
            y = NAN if i == 2 else FIRST[name] + 1.7 * i
            rows.append((ORDINARY[i % len(ORDINARY)], name, [y, float(i) if name == "fold1" else NAN]))
    return write_labelled(tmp_path_factory.mktemp("stores") / "folds", rows, {"y": "regression", "empty": "regression"})


def values(store: Store, *names: str) -> np.ndarray:
    found = np.concatenate([store.labels(store.split(name))[:, 0] for name in names]).astype(np.float64)
    return found[~np.isnan(found)]


OPTIONS = (*FINETUNE, *SMALL, *ADAM, "--batch-size", "3", "--max-epoch", "1", "--targets", "y")


@pytest.mark.parametrize(("given", "names"), [("fold0", ["fold0"]), ("fold1, fold0,fold1", ["fold0", "fold1"])])
def test_scales_are_those_of_what_is_trained_on(folds, tmp_path, given, names):
    run = train(folds.path, tmp_path, *OPTIONS, "--train-subset", given, "--valid-subset", "held out, other")
    assert run.code == 0, run.output[-3000:]
    found, expected = load(tmp_path / "checkpoint_last.pt").finetuned, values(folds, *names)
    assert found.mean == pytest.approx([expected.mean()], rel=1e-6)
    assert found.std == pytest.approx([expected.std()], rel=1e-6)
    assert abs(values(folds, "fold0").mean() - values(folds, "fold0", "fold1").mean()) > 1
    assert run.column("train", "train_molecules") == [sum(SIZES[name] for name in names)]
    assert run.column("held out", "held out_molecules") == [5]
    assert run.column("other", "other_molecules") == [3]


def test_blanks_after_commas_change_nothing(folds, tmp_path):
    """Batches are drawn anew each epoch, and the checkpoint knows its splits."""
    runs = []
    for name, comma in (("plain", ","), ("blank", ", ")):
        subsets = ("--train-subset", comma.join(("fold0", "fold1")), "--valid-subset", comma.join(("held out", "other")))
        runs.append(train(folds.path, tmp_path / name, *OPTIONS, *subsets, "--max-epoch", "2"))
    plain, blank = runs
    assert len(plain.logged("train")) == 2
    assert blank.column("train", "train_loss") == plain.column("train", "train_loss")
    kept = load(blank.folder / "checkpoint_last.pt").trained_on
    assert sorted(kept.trained_splits()) == ["fold0", "fold1"]
    assert (kept.train_subset, kept.valid_subset) == ("fold0,fold1", "held out,other")


def test_checkpoints_that_were_written_with_blanks_know_their_splits(folds):
    written = TrainedOn.of(folds.manifest, train_subset="fold0, fold1", valid_subset="held out , other").to_json()
    found = TrainedOn.from_json(written)
    assert found == TrainedOn.of(folds.manifest, train_subset="fold0,fold1", valid_subset="held out,other")
    assert list(found.trained_splits()) == ["fold0", "fold1"]
    assert found.choosing_split() == folds.manifest.splits["held out"]


def test_pretraining_on_several_splits(folds, tmp_path):
    flat = ("--geometry-weight", "0", "--noise-weight", "0")
    options = (*PRETRAIN, *SMALL, *ADAM, *flat, "--batch-size", "3", "--max-epoch", "1", "--train-subset", "fold0,fold1,other")
    run = train(folds.path, tmp_path, *options, "--valid-subset", "held out")
    assert run.column("train", "train_molecules") == [15]


def test_validating_on_what_is_trained_on(folds, tmp_path, caplog):
    """Two epochs in mid-epoch validation: each epoch is trained once, each validation sees all, and it is said."""
    options = (*OPTIONS, "--train-subset", "fold0", "--valid-subset", "fold0", "--validate-interval-updates", "1", "--max-epoch", "2")
    run = train(folds.path, tmp_path, *options, "--no-save")
    assert run.column("train", "train_molecules") == [8, 8]
    assert run.column("fold0", "fold0_molecules") == [8] * 6
    assert "fold0: trained on and validated on" in run.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--train-subset", "fold0", "--valid-subset", "fold9"),
            "no split 'fold9'; it has: fold0, fold1, held out, other; choose another with --valid-",
        ),
        (
            ("--train-subset", "fold0,fold9", "--valid-subset", "fold1"),
            "no split 'fold9'; it has: fold0, fold1, held out, other; choose another with --tr",
        ),
        ((), "no split 'train'; it has: fold0, fold1, held out, other"),
        (("--train-subset", "", "--valid-subset", "fold1"), "no split ''; it has: "),
        (
            ("--train-subset", "fold0", "--valid-subset", "fold1", "--targets", "empty"),
            "label 'empty' has no value in the training split (fold0)",
        ),
    ],
)
def test_splits_that_are_not_there_are_told_at_once(folds, tmp_path, options, said):
    run = train(folds.path, tmp_path, *OPTIONS, *options)
    assert run.code == 2
    assert said in run.output
    assert "Traceback" not in run.output


def test_an_empty_split_is_told_at_once(folds):
    store = Store(folds.path)
    info = store.manifest.splits["other"]
    store.manifest.splits["other"] = type(info)(molecules=0, sha256=info.sha256)
    with pytest.raises(UserError, match="split 'other' is empty; choose another with --valid-subset, or train with --disable-validation"):
        splits.check(store, "fold0", "fold1,other")
    with pytest.raises(UserError, match="split 'other' is empty; choose another with --train-subset, or make the store again"):
        splits.check(store, "other", None)


def test_statistics_of_one_split_are_the_stores_own(qm9_store):
    for column in range(len(qm9_store.manifest.labels)):
        assert splits.statistics(qm9_store, TRAIN, column) is qm9_store.manifest.statistics[TRAIN][column]
        together = splits.statistics(qm9_store, "train,valid,test", column)
        everything = qm9_store.labels(np.arange(len(qm9_store)))[:, column].astype(np.float64)
        assert together.count == len(everything)
        assert (together.mean, together.std) == pytest.approx((everything.mean(), everything.std()), rel=1e-6)
        assert (together.min, together.max) == pytest.approx((everything.min(), everything.max()), rel=1e-6)


def test_nothing_is_warned_of_where_splits_differ(folds, caplog):
    caplog.set_level(logging.WARNING)
    splits.check(folds, "fold0,fold1", "held out")
    assert not caplog.records
