"""`moleblend evaluate`: scores of a finetuned checkpoint on a split."""

import argparse
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from moleblend_fs.checkpoint.read import Checkpoint, FinetunedFor, load
from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_runner_arguments,
    add_split_arguments,
    check_output,
    compare_with_store,
    molecules_of,
    named_rows,
    runner,
    text_beside,
)
from moleblend_fs.data.logits import probability
from moleblend_fs.data.record import decode
from moleblend_fs.data.split_file import open_store
from moleblend_fs.data.splits import TRAIN
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, flush, flush_names, whole_file
from moleblend_fs.inference.checkpoint_fit import label_factors
from moleblend_fs.inference.predict import Runner, check_structures, loaders_told, property_head
from moleblend_fs.objectives.common.metrics import average, scores
from moleblend_fs.objectives.finetuning import shared_kind
from moleblend_fs.wording import counted, verb, with_decimals

PART = 4096
"""Molecules whose records are held at a time."""


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
    add_split_arguments(parser)
    add_comparison_argument(parser)
    add_runner_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the scores."""
    if arguments.ogb_submission is not None and arguments.split not in ("test-dev", "test-challenge"):
        raise UserError(f"a submission is made of split test-dev or test-challenge, got --split {arguments.split}")
    checkpoint = load(arguments.checkpoint)
    about = property_head(checkpoint)
    store = open_store(arguments.store, arguments.split_file, arguments.fold)
    check_output(arguments.json, arguments.checkpoint, store.path, arguments.split_file)
    indices = molecules_of(store, arguments.split)
    compare_with_store(checkpoint, store, arguments, "evaluate", inputs=about.inputs, split=arguments.split)
    check_structures(store, about.inputs, "the model was finetuned with", every=True)
    how = runner(arguments)
    if arguments.ogb_submission is not None:
        return submit(predict(how, checkpoint, store, indices).values[:, 0], arguments.split, arguments.ogb_submission)
    columns = [store.manifest.label_index(name) for name in about.targets]
    # Opened before the work, so that what cannot be written is reported at once.
    with whole_file(arguments.json) if arguments.json is not None else nullcontext() as stream:
        labels = read_labels(store, indices, columns) * label_factors(about, store.manifest.labels)
        if np.isnan(labels).all():
            raise UserError(f"split {arguments.split!r} of {store.path} has no labels to score against; use `moleblend predict`")
        predicted = predict(how, checkpoint, store, indices)
        result = evaluation(arguments, checkpoint, store, predicted, labels)
        if stream is not None:
            write_result(stream, result, store, indices, predicted.values, labels)
    # The table for people goes where it does not mix with the JSON.
    with text_beside(arguments.json):
        show(result, about)
        if arguments.json is not None:
            print(f"written: {arguments.json}")
    return 0


def read_labels(store: Store, indices: np.ndarray, columns: list[int]) -> np.ndarray:
    """(molecules, targets) float64, NaN where missing; records are read a part at a time."""
    parts = [indices[start : start + PART] for start in range(0, len(indices), PART)]
    return np.concatenate([store.labels(part)[:, columns].astype(np.float64) for part in parts])


class Values(NamedTuple):
    """Predictions of a split.

    Attributes:
        values: (molecules, targets) in the targets' units; logits for classification.
        from_2d: molecules whose prediction is from 2D alone although the model reads 3D as well.
    """

    values: np.ndarray
    from_2d: int


def predict(how: Runner, checkpoint: Checkpoint, store: Store, indices: np.ndarray) -> Values:
    """Predictions of all molecules; UserError that names those without a finite one, which would make every score wrong."""
    about = property_head(checkpoint)
    values, bad, from_2d = [], [np.zeros(0, np.int64)], 0
    with loaders_told():
        for part in how.properties(checkpoint, store, indices):
            values.append(part.values)
            bad.append(part.rows[part.not_finite()])
            from_2d += int((~part.has_3d).sum()) if about.inputs == "2d+3d" else 0
    if len(rows := np.concatenate(bad)):
        raise UserError(
            f"{checkpoint.about.get('file')}: the model's output is not finite for {len(rows)} of {counted(len(indices), 'molecule')} "
            f"({named_rows(rows)} of the source): there is no score; `moleblend predict` gives the others' predictions"
        )
    return Values(np.concatenate(values), from_2d)


def evaluation(
    arguments: argparse.Namespace, checkpoint: Checkpoint, store: Store, predicted: Values, labels: np.ndarray
) -> dict[str, Any]:
    """Everything that is reported but the single predictions."""
    about = property_head(checkpoint)
    kind = shared_kind(about.kinds, about.targets)
    result: dict[str, Any] = {
        "checkpoint": str(arguments.checkpoint),
        "updates": checkpoint.about.get("updates"),
        "store": str(store.path),
        "split": arguments.split,
        "split_sha256": store.manifest.splits[arguments.split].sha256,
        "inputs": about.inputs,
        "precision": arguments.precision,
        "kind": kind,
        "units": dict(zip(about.targets, about.units, strict=True)),
        "molecules": len(labels),
        "molecules_from_2d_alone": predicted.from_2d,
        "metrics": scores(predicted.values, labels, about.targets, kind),
    }
    if kind == "regression":
        result["baseline"] = scores(training_mean(store, about, len(labels)), labels, about.targets, kind)
    if store.manifest.source == "pcqm4mv2" and about.targets == ("homolumogap",):
        result["ogb"] = official_score(predicted.values[:, 0], labels[:, 0])
    return result


def write_result(
    stream: IO[str], result: dict[str, Any], store: Store, indices: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> None:
    """The scores and every prediction as one JSON object, a molecule a line; predictions of classes are probabilities."""
    if result["kind"] == "classification":
        predictions = probability(predictions)
    head = as_json(result, indent=1).removesuffix("\n}")
    stream.write(f'{head},\n "predictions": [')
    for start in range(0, len(indices), PART):
        part = slice(start, start + PART)
        for number, (record, label, row) in enumerate(
            zip(store.records(indices[part]), labels[part].tolist(), predictions[part].tolist(), strict=True), start
        ):
            molecule_id, graph = decode(record)
            entry = {"id": molecule_id, "smiles": graph.smiles, "target": label, "prediction": row}
            stream.write(f"{',' if number else ''}\n  {as_json(entry)}")
    stream.write("\n ]\n}\n")


def training_mean(store: Store, about: FinetunedFor, molecules: int) -> np.ndarray:
    """(molecules, targets) the mean of the training labels in the model's units, the predictor that any model must beat.

    Of the store's training split; where it has none, as a store made for testing, of the labels that the model was trained on.
    """
    statistics = store.manifest.statistics.get(TRAIN, ())
    means = []
    for name, mean, factor in zip(about.targets, about.mean, label_factors(about, store.manifest.labels), strict=True):
        of_label = statistics[store.manifest.label_index(name)] if statistics else None
        means.append(mean if of_label is None else of_label.mean * factor)
    return np.tile(means, (molecules, 1))


def official_score(prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """MAE in eV by OGB's own evaluator."""
    from ogb.lsc import PCQM4Mv2Evaluator

    return {name: float(value) for name, value in PCQM4Mv2Evaluator().eval({"y_pred": prediction, "y_true": label}).items()}


def submit(prediction: np.ndarray, split: str, folder: Path) -> int:
    """Write a leaderboard submission by OGB's own evaluator, which checks that all molecules are there."""
    from ogb.lsc import PCQM4Mv2Evaluator

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".submission.") as unfinished:
            PCQM4Mv2Evaluator().save_test_submission({"y_pred": prediction.astype(np.float32)}, unfinished, split)
            for path in Path(unfinished).iterdir():
                flush(path)
                os.replace(path, folder / path.name)
        flush_names(folder)
    except AssertionError as error:
        raise UserError(
            f"OGB refuses a submission of {counted(len(prediction), 'molecule')} for {split}: it wants the whole split of the full release"
        ) from error
    print(f"written: {folder}/y_pred_pcqm4m-v2_{split}.npz")
    return 0


def show(result: dict[str, Any], about: FinetunedFor) -> None:
    """Print a table of scores."""
    print(
        f"{result['checkpoint']} on {result['split']} of {result['store']}: {counted(result['molecules'], 'molecule')}, "
        f"inputs {result['inputs']}"
    )
    if result["molecules_from_2d_alone"]:
        flat, total = result["molecules_from_2d_alone"], counted(result["molecules"], "molecule")
        print(f"  {flat:,} of {total} {verb(flat, 'has', 'have')} no 3D structure: scored from 2D alone")
    names = list(next(iter(result["metrics"].values())))
    for target in about.targets:
        row = result["metrics"][target]
        unit = result["units"][target]
        text = "  ".join(f"{name} {shown(row[name])}" for name in names)
        baseline = result.get("baseline", {}).get(target, {}).get("mae")
        print(
            f"  {target}: {text}{f' {unit}' if unit else ''}" + ("" if baseline is None else f"   (mean predictor: mae {shown(baseline)})")
        )
    if len(about.targets) > 1:
        for name in names:
            defined = sum(row[name] is not None for row in result["metrics"].values())
            value = average(result["metrics"], name)
            print(f"  average over {defined} of {len(about.targets)} targets: {name} {shown(value)}")
    if "ogb" in result:
        print(f"  official OGB evaluator: {result['ogb']}")


def shown(score: float | None) -> str:
    """A score as the table has it."""
    return "-" if score is None else with_decimals(score, 4)
