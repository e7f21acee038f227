"""A validation split that cannot choose a checkpoint is told of before training, and one that can in part."""

import numpy as np
import pytest

from fairseq_plugins.splits import SHOWN, check_metric, check_validation, count_labels
from moleblend_fs.cli.main import main
from moleblend_fs.errors import UserError
from tests.fairseq_plugins.conftest import NAN, write_labelled
from tests.fairseq_plugins.runs import ADAM, FINETUNE, SMALL, train, train_forked
from tests.model.molecules import ORDINARY

OPTIONS = (*FINETUNE, *SMALL, *ADAM, "--batch-size", "8", "--max-epoch", "1")
CLASSES = {
    "both": [0, 1, 0, 1],
    "zeros": [0, 0, NAN, 0],
    "ones": [1, 1, 1, 1],
    "none": [NAN, NAN, NAN, NAN],
}
"""Target -> classes of the validation split's molecules."""


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Four targets; both classes of each among the 12 training molecules, and in validation what `CLASSES` says."""
    path = tmp_path_factory.mktemp("stores") / "classes"
    rows = [(s, "train", [float(i % 2)] * len(CLASSES)) for i, s in enumerate(ORDINARY[:6] * 2)]
    rows += [(s, "valid", list(row)) for s, row in zip(ORDINARY, zip(*CLASSES.values(), strict=True), strict=False)]
    return write_labelled(path, rows, dict.fromkeys(CLASSES, "classification"))


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """Two regression targets; validation has labels of one."""
    path = tmp_path_factory.mktemp("stores") / "values"
    rows = [(s, "train", [i / 3, 1.0 - i]) for i, s in enumerate(ORDINARY[:6])]
    rows += [(s, "valid", [i / 4, NAN]) for i, s in enumerate(ORDINARY[:4])]
    return write_labelled(path, rows, {"present": "regression", "absent": "regression"})


def test_counts_are_those_of_the_labels(classes):
    """From the manifest alone, against the labels themselves."""
    labels = classes.labels(classes.split("valid"))
    for count, column in zip(count_labels(classes, "valid", range(4)), labels.T, strict=True):
        assert (count.labels, count.positive) == (int((~np.isnan(column)).sum()), int(np.nansum(column))), count.name


def test_no_choice_without_both_classes(classes, tmp_path):
    """As a command: told at once, with the counts and what to do; no checkpoint, no update."""
    run = train_forked(classes.path, tmp_path, *OPTIONS, "--targets", "zeros,ones,none")
    assert run.code == 2
    assert "Traceback" not in run.output
    assert "begin training epoch" not in run.output
    said = next(line for line in run.output.splitlines() if line.startswith("moleblend: error: "))
    for part in ("'valid'", "zeros: 3 of class 0, 0 of class 1", "ones: 0 of class 0, 4 of class 1", "none: no labels", "--split-seed"):
        assert part in said
    for option in ("--select-by loss", "--valid-subset", "--disable-validation"):
        assert option in said


@pytest.mark.parametrize(("options", "checkpoint"), [(("--select-by", "loss"), "best"), (("--disable-validation",), "last")])
def test_the_remedies_are_remedies(classes, tmp_path, options, checkpoint):
    run = train(classes.path, tmp_path, *OPTIONS, "--targets", "ones", *options)
    assert run.code == 0
    assert (tmp_path / f"checkpoint_{checkpoint}.pt").exists()


def test_targets_without_a_score_are_named_and_left_out(classes, tmp_path, capsys):
    """The mean is that over the one target that has both classes, in training's log and in the final table."""
    run = train(classes.path, tmp_path, *OPTIONS)
    assert run.code == 0
    assert "means over 1 of 4 targets" in run.output
    assert "zeros: 3 of class 0, 0 of class 1; ones: 0 of class 0, 4 of class 1; none: no labels" in run.output
    assert main(["evaluate", str(tmp_path / "checkpoint_best.pt"), str(classes.path), "--split", "valid"]) == 0
    table = capsys.readouterr().out
    score = run.column("valid", "valid_roc_auc")[0]
    assert f"both: roc_auc {score:.4f}" in table
    assert f"average over 1 of 4 targets: roc_auc {score:.4f}" in table
    assert "zeros: roc_auc -" in table


def test_the_rate_falls_where_the_score_that_chooses_stands_still(classes, tmp_path):
    """reduce_lr_on_plateau looks at ROC-AUC as the choice of the best checkpoint does: up is better."""
    options = (*OPTIONS, "--lr-scheduler", "reduce_lr_on_plateau", "--lr-shrink", "0.5", "--max-epoch", "5")
    run = train(classes.path, tmp_path, *options, "--targets", "both", "--valid-subset", "train", "--no-save")
    assert run.code == 0, run.output[-2000:]
    scores = [float(line["train_roc_auc"]) for line in run.logged("train") if "train_roc_auc" in line]
    rates = [float(line["train_lr"]) for line in run.logged("train") if "train_lr" in line]
    better = [score > max(scores[:epoch], default=-1.0) for epoch, score in enumerate(scores)]
    assert any(better[1:-1]), "some epochs are better"
    assert not all(better[:-1]), "some are not"
    expected = [1e-3]
    for rose in better[:-1]:
        expected.append(expected[-1] * (1.0 if rose else 0.5))
    assert rates == pytest.approx(expected)


def test_regression_needs_labels(values, tmp_path):
    run = train(values.path, tmp_path / "absent", *OPTIONS, "--targets", "absent")
    assert run.code == 2
    assert "absent: no labels" in run.output
    assert "--select-by" not in run.output.split("moleblend: error: ")[1]
    run = train(values.path, tmp_path / "both", *OPTIONS)
    assert run.code == 0
    assert "means over 1 of 2 targets" in run.output
    assert (tmp_path / "both" / "checkpoint_best.pt").exists()


def test_a_metric_that_is_not_there_or_the_wrong_way_round(values, tmp_path):
    run = train(values.path, tmp_path, *OPTIONS, "--targets", "present", "--best-checkpoint-metric", "auc")
    assert run.code == 2
    assert "regression has mae and rmse" in run.output
    for metric, maximize in (("roc_auc", False), ("mae", True)):
        kind = "classification" if metric == "roc_auc" else "regression"
        check_metric(metric, not maximize, kind)
        with pytest.raises(UserError, match="--maximize-best-checkpoint-metric"):
            check_metric(metric, maximize, kind)


def test_a_long_list_is_cut(classes):
    with pytest.raises(UserError) as refusal:
        check_validation(classes, "valid", [1] * 7, "roc_auc")
    assert str(refusal.value).count("zeros") == SHOWN == 5
    assert "and 2 more" in str(refusal.value)
