"""Run folders: means, deviations, intervals, calibrated probabilities, and how near the training molecules are."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.errors import UserError
from moleblend_fs.predictions.calibration import Calibration, TargetCalibration, conformal_quantile
from moleblend_fs.predictions.checkpoint_model import open_predictive
from moleblend_fs.predictions.domain import Domain
from tests.predictions.run_folders import TRAINING, run_folder

NEW = ("CCO", "CCCCCO", "FC(F)(F)c1nnn(Br)c1S(=O)=O", "nonsense", "O")


def predicted(model: Path, out: Path, *options: str) -> list[dict[str, str]]:
    assert main(["predict", str(model), str(out), "--smiles", *NEW, *options]) == 0
    with open(out, newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def test_mean_deviation_and_interval_of_members(tmp_path):
    folder = run_folder(tmp_path / "run")
    lines = predicted(folder, tmp_path / "out.csv")
    assert list(lines[0]) == ["smiles", "y", "y_std", "y_low", "y_high", "similarity", "outside_domain", "status"]
    members = [predicted(folder / f"members/fold0-member{i}/model", tmp_path / f"{i}.csv") for i in range(3)]
    for place in (0, 1, 2, 4):
        values = np.array([float(member[place]["y"]) for member in members])
        line = {name: float(lines[place][name]) for name in ("y", "y_std", "y_low", "y_high")}
        assert np.ptp(values) > 1e-3, "members must differ for this to show anything"
        assert math.isclose(line["y"], values.mean(), rel_tol=1e-5)
        assert math.isclose(line["y_std"], values.std(), rel_tol=1e-3, abs_tol=1e-5)  # from values of 7 digits
        half = 0.9 * (line["y_std"] + 0.25)  # the 90th of 99 residuals, which are 0.01, 0.02, ...
        assert math.isclose(line["y_high"] - line["y"], half, rel_tol=1e-4)
        assert math.isclose(line["y"] - line["y_low"], half, rel_tol=1e-4)
    assert [lines[3][name] for name in ("y", "y_std", "y_low", "y_high", "similarity", "outside_domain")] == [""] * 6
    narrow = predicted(folder, tmp_path / "narrow.csv", "--interval", "0.5")
    assert math.isclose(float(narrow[0]["y_high"]) - float(narrow[0]["y"]), 0.5 * (float(narrow[0]["y_std"]) + 0.25), rel_tol=1e-4)


def test_intervals_that_too_few_molecules_calibrate_are_said_to_lack(tmp_path, capsys):
    residuals = tuple(i / 10 for i in range(8))
    few = Calibration(targets={"y": TargetCalibration(kind="regression", absolute_residuals=residuals)})
    folder = run_folder(tmp_path / "run", members=1, calibration=few)
    lines = predicted(folder, tmp_path / "out.csv")
    assert (lines[0]["y_low"], lines[0]["y_high"]) == ("", "")
    assert "no intervals for y (low and high are empty): for 90 % the model" in (said := capsys.readouterr().err)
    assert "with at least 9 labels that" in said
    assert predicted(folder, tmp_path / "out.csv", "--interval", "0.8")[0]["y_low"]
    assert "no intervals" not in capsys.readouterr().err


def test_probabilities_are_calibrated(tmp_path):
    folder = run_folder(tmp_path / "run", kind="classification")
    lines = predicted(folder, tmp_path / "out.csv", "--no-similarity")
    assert list(lines[0]) == ["smiles", "y", "y_std", "status"]
    members = [predicted(folder / f"members/fold0-member{i}/model", tmp_path / f"{i}.csv") for i in range(3)]
    for place in (0, 1, 2, 4):
        probabilities = np.array([float(member[place]["y"]) for member in members])
        logit = np.log(probabilities / (1 - probabilities)).mean()
        assert math.isclose(float(lines[place]["y"]), 1 / (1 + math.exp(-(2 * logit - 1))), rel_tol=1e-3)
        assert math.isclose(float(lines[place]["y_std"]), probabilities.std(), rel_tol=1e-3, abs_tol=1e-6)


def test_intervals_hold_the_share_that_they_are_to_hold():
    """Of exchangeable residuals: 1,000 draws of 60 of them and of one more; the share is 0.9 within four standard errors, or more."""
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        residuals = np.abs(random.standard_cauchy(61))
        quantile = conformal_quantile(sorted(residuals[:60]), 0.9)
        assert quantile is not None
        inside += residuals[60] <= quantile
    assert 0.9 - 4 * 0.0095 < inside / 1000 < 0.9 + 1 / 61 + 4 * 0.0095


@pytest.mark.parametrize(("n", "level", "place"), [(9, 0.9, 9), (8, 0.9, None), (19, 0.9, 18), (99, 0.9, 90), (0, 0.5, None), (1, 0.5, 1)])
def test_the_quantile_is_one_of_the_residuals(n, level, place):
    residuals = [float(i) for i in range(1, n + 1)]
    assert conformal_quantile(residuals, level) == (None if place is None else float(place))


def test_similarity_and_what_is_outside(tmp_path):
    lines = predicted(run_folder(tmp_path / "run"), tmp_path / "out.csv")
    assert lines[0]["similarity"] == "1.0000"
    assert [line["outside_domain"] for line in lines] == ["no", "no", "yes", "", "yes"]
    domain = Domain(TRAINING)
    others = [Domain([text for text in TRAINING if text != each]).similarity([each])[0] for each in TRAINING]
    assert domain.threshold == np.quantile(others, 0.05)
    assert Domain(["OCC", "broken"]).similarity(["CCO", "bad"]).tolist()[0] == 1.0


def test_a_folder_may_be_moved_and_says_what_is_wrong_with_it(tmp_path):
    folder = run_folder(tmp_path / "run")
    moved = folder.rename(tmp_path / "moved")
    assert len(open_predictive(moved).members) == 3
    about = json.loads((moved / "model.json").read_text())
    wrong = {
        "names '/etc/passwd', which does not lie in the folder": {"calibration": "/etc/passwd"},
        "none.csv: missing": {"training_molecules": "none.csv"},
        "not a folder of `moleblend finetune`": {"members": []},
        "of version 2": {"version": 2},
    }
    for message, change in wrong.items():
        (moved / "model.json").write_text(json.dumps(about | change))
        with pytest.raises(UserError, match=message):
            open_predictive(moved)


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    written = Calibration(targets={"a": TargetCalibration(kind="regression", absolute_residuals=(0.5, 1.0))})
    written.save(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json") == written
    (tmp_path / "c.json").write_text('{"targets": {"a": {"kind": "regression", "absolute_residuals": [-1]}}}')
    with pytest.raises(UserError, match="a residual of 'a' is negative"):
        Calibration.read(tmp_path / "c.json")
