"""`moleblend evaluate`: scores of a finetuned checkpoint on a split."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.cli.common import add_runner_arguments, runner
from moleblend_fs.data.record import decode
from moleblend_fs.data.splits import TRAIN
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.inference.checkpoint import FinetunedFor, load
from moleblend_fs.objectives.finetuning import shared_kind
from moleblend_fs.objectives.metrics import average, scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("checkpoint", help="finetuned checkpoint: a .pt of fairseq-train, or a folder of `moleblend convert`")
    parser.add_argument("store", help="store with the labels")
    parser.add_argument("--split", default="test", help="split to score (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write scores and every prediction there")
    parser.add_argument(
        "--ogb-submission",
        type=Path,
        metavar="FOLDER",
        help="PCQM4Mv2: write the official submission file of split test-dev or test-challenge into FOLDER instead of scoring",
    )
    add_runner_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the scores."""
    checkpoint = load(arguments.checkpoint)
    store = Store(arguments.store)
    indices = np.asarray(store.split(arguments.split))
    prediction = runner(arguments).properties(checkpoint, store, indices)
    about = checkpoint.finetuned
    assert about is not None
    if arguments.ogb_submission is not None:
        return submit(prediction[:, 0], arguments.split, arguments.ogb_submission)
    columns = [store.manifest.label_index(name) for name in about.targets]
    labels = store.labels(indices)[:, columns].astype(np.float64)
    if np.isnan(labels).all():
        raise UserError(f"split {arguments.split!r} of {store.path} has no labels to score against; use `moleblend predict`")
    kind = shared_kind(about.kinds, about.targets)
    result: dict[str, Any] = {
        "checkpoint": str(arguments.checkpoint),
        "updates": checkpoint.about.get("updates"),
        "store": str(store.path),
        "split": arguments.split,
        "split_sha256": store.manifest.splits[arguments.split].sha256,
        "inputs": about.inputs,
        "kind": kind,
        "units": dict(zip(about.targets, about.units, strict=True)),
        "molecules": len(indices),
        "metrics": scores(prediction, labels, about.targets, kind),
    }
    if kind == "regression":
        result["baseline"] = scores(training_mean(store, columns, len(indices)), labels, about.targets, kind)
    if store.manifest.source == "pcqm4mv2" and about.targets == ("homolumogap",):
        result["ogb"] = official_score(prediction[:, 0], labels[:, 0])
    show(result, about)
    if arguments.json is not None:
        result["predictions"] = [
            {"id": molecule_id, "smiles": graph.smiles, "target": [None if np.isnan(x) else x for x in label], "prediction": list(row)}
            for (molecule_id, graph), label, row in zip(
                (decode(record) for record in store.records(indices)), labels.tolist(), prediction.tolist(), strict=True
            )
        ]
        write_atomically(arguments.json, json.dumps(result, indent=1) + "\n")
        print(f"written: {arguments.json}")
    return 0


def training_mean(store: Store, columns: list[int], molecules: int) -> np.ndarray:
    """(molecules, targets) the mean of the training split, the predictor that any model must beat."""
    statistics = store.manifest.statistics.get(TRAIN, ())
    means = [of_label.mean if statistics and (of_label := statistics[c]) is not None else np.nan for c in columns]
    return np.tile(means, (molecules, 1))


def official_score(prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """MAE in eV by OGB's own evaluator."""
    from ogb.lsc import PCQM4Mv2Evaluator

    return {name: float(value) for name, value in PCQM4Mv2Evaluator().eval({"y_pred": prediction, "y_true": label}).items()}


def submit(prediction: np.ndarray, split: str, folder: Path) -> int:
    """Write a leaderboard submission by OGB's own evaluator, which checks that all molecules are there."""
    from ogb.lsc import PCQM4Mv2Evaluator

    if split not in ("test-dev", "test-challenge"):
        raise UserError(f"a submission is made of split test-dev or test-challenge, got --split {split}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        PCQM4Mv2Evaluator().save_test_submission({"y_pred": prediction.astype(np.float32)}, str(folder), split)
    except AssertionError as error:
        raise UserError(
            f"OGB refuses a submission of {len(prediction)} molecules for {split}: it wants the whole split of the full release"
        ) from error
    print(f"written: {folder}/y_pred_pcqm4m-v2_{split}.npz")
    return 0


def show(result: dict[str, Any], about: FinetunedFor) -> None:
    """Print a table of scores."""
    print(f"{result['checkpoint']} on {result['split']} of {result['store']}: {result['molecules']} molecules, inputs {result['inputs']}")
    names = list(next(iter(result["metrics"].values())))
    for target in about.targets:
        row = result["metrics"][target]
        unit = result["units"][target]
        text = "  ".join(f"{name} {'-' if (value := row[name]) is None else f'{value:.4f}'}" for name in names)
        baseline = result.get("baseline", {}).get(target, {}).get("mae")
        print(f"  {target}: {text}{f' {unit}' if unit else ''}" + ("" if baseline is None else f"   (mean predictor: mae {baseline:.4f})"))
    if len(about.targets) > 1:
        for name in names:
            defined = sum(row[name] is not None for row in result["metrics"].values())
            value = average(result["metrics"], name)
            print(f"  average over {defined} of {len(about.targets)} targets: {name} {'-' if value is None else f'{value:.4f}'}")
    if "ogb" in result:
        print(f"  official OGB evaluator: {result['ogb']}")
