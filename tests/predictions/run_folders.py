"""Folders as `moleblend finetune` writes them, of models that were never trained."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.predictions.calibration import Calibration, TargetCalibration
from tests.inference.untrained_models import untrained

TRAINING = ("CCO", "CCCO", "CCCCO", "c1ccccc1", "Cc1ccccc1", "CC(=O)O", "CCC(=O)O", "CCN", "CCCN", "c1ccccc1O")


def run_folder(
    folder: Path, *, members: int = 3, kind: str = "regression", calibration: Calibration | None = None, training: Sequence[str] = TRAINING
) -> Path:
    """Members that differ, a calibration and training molecules."""
    folder.mkdir(parents=True)
    listed = []
    for number in range(members):
        name = f"members/fold0-member{number}/model"
        checkpoint = load(untrained(folder / f"plain{number}", width=64, kind=kind, unit="mol/L" if kind == "regression" else ""))
        torch.manual_seed(number)
        checkpoint.weights = {key: value + 0.01 * torch.randn_like(value) for key, value in checkpoint.weights.items()}
        save(checkpoint, folder / name)
        listed.append({"name": f"fold0-member{number}", "checkpoint": name, "score": 0.5})
    if calibration is None:
        residuals = tuple(i / 100 for i in range(1, 100))
        target = TargetCalibration(kind="regression", absolute_residuals=residuals, scaled_residuals=residuals, std_floor=0.25)
        calibration = Calibration(
            targets={"y": target if kind == "regression" else TargetCalibration(kind=kind, slope=2.0, intercept=-1.0)}
        )  # type: ignore[arg-type]
    calibration.save(folder / "calibration.json")
    with open(folder / "training_molecules.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["smiles", "split"], *([text, "train"] for text in training)])
    about = {"format": "moleblend-finetuned", "version": 1, "inputs": "2d", "hydrogens": "none", "conformers": None, "members": listed}
    about |= {"targets": [{"name": "y", "kind": kind, "unit": ""}], "training_molecules": "training_molecules.csv"}
    (folder / "model.json").write_text(json.dumps(about | {"calibration": "calibration.json", "split": {"kind": "random"}}))
    return folder
