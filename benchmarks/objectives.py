"""A step of each objective beside blend-then-predict's: molecules per CPU second and memory, in one run, steps in turn.

Each objective has a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import ROOT, Row, row
from benchmarks.step import StepProcess, random_batch
from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.checkpoint.write import save
from moleblend_fs.data.sidecar import CODES, Sidecar
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.common.loss import weighted_loss
from moleblend_fs.objectives.objective import Label, Objective
from moleblend_fs.objectives.registry import DEFAULT_OBJECTIVE, objectives
from moleblend_fs.ops.layout import Layout

BATCH, STEPS, SIZE = 64, 5, "small"
TOKENIZER = "mole_bert_tokenizer"
"""Makes the sidecar of codes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objective", default=",".join(objectives()), help="which, separated by commas (default: all)")


def main(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        store, source = Path(folder) / "qm9", ROOT / "examples/quickstart/qm9_sample.csv.xz"
        command = [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", "qm9", str(source), str(store), "--limit", "1000"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        names = args.objective.split(",")
        for sidecar in dict.fromkeys(sidecar for name in names for sidecar in new(name).sidecars()):
            words = ["tokenize", str(untrained(TOKENIZER, Path(folder)))] if sidecar == CODES else ["preprocess-sidecar", sidecar]
            command = [sys.executable, "-m", "moleblend_fs.cli.main", *words, str(store), "--no-progress"]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        for name in names:
            rows += beside_blend(store, name)
    return rows


def beside_blend(store: Path, name: str) -> list[Row]:
    """An objective's steps and those of blend-then-predict, in turn."""
    with (
        StepProcess(store, name, module="benchmarks.objectives") as ours,
        StepProcess(store, DEFAULT_OBJECTIVE, module="benchmarks.objectives") as blend,
    ):
        pairs = [(ours.step(), blend.step()) for _ in range(1 + STEPS)]
    case = f"{name}, {made(name, Store(store)).passes:g} passes, QM9 ({ours.atoms:.1f} atoms), {SIZE}, batch {BATCH}, float32, 1 thread"
    return [
        row("objectives", case, "training step", "molecules/CPU s", [BATCH / mine.seconds for mine, _ in pairs[1:]]),
        row("objectives", case, "speed, of blend-then-predict's", "x", [other.seconds / mine.seconds for mine, other in pairs[1:]]),
        row("objectives", case, "peak memory of the process", "GiB", [pairs[-1][0].peak]),
        row("objectives", case, "memory, of blend-then-predict's", "x", [pairs[-1][0].peak / pairs[-1][1].peak]),
    ]


def untrained(name: str, folder: Path) -> Path:
    """A checkpoint of an objective's model as it begins: how long a step takes does not depend on what it has learned."""
    objective = new(name)
    model = MoleBlend(ModelConfig(**PRESETS["tiny"], heads=objective.heads(), **objective.config_fields()))
    save(Checkpoint(config=model.config, weights=model.state_dict()), folder / name)
    return folder / name


def new(name: str) -> Objective:
    """An objective with its defaults."""
    found = objectives()[name]
    return found(found.Options())


def made(name: str, store: Store) -> Objective:
    """The same, and what it needs to know of the store's labels and sidecars."""
    objective = new(name)
    statistics = store.manifest.statistics["train"]
    labels = {}
    for label in objective.labels(store.manifest):
        column = store.manifest.label_index(label)
        known = statistics[column]
        assert known is not None
        labels[label] = Label(column, known.mean, known.std, store.manifest.labels[column].unit)
    objective.take_labels(labels)
    objective.take_sidecars({sidecar: Sidecar(store, sidecar).manifest for sidecar in objective.sidecars()})
    return objective


def take_steps(path: Path, name: str) -> None:
    """Print the atoms of a molecule, and for each line of the standard input what a step takes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = Store(path)
    objective, batch = made(name, store), random_batch(store, BATCH)
    place = {row: index for index, row in enumerate(np.asarray(store.source_row).tolist())}
    indices = [place[row] for row in batch.molecule_id.tolist()]
    for sidecar in objective.sidecars():
        if (values := Sidecar(store, sidecar).carried(indices)) is not None:
            batch.extra[sidecar] = torch.from_numpy(values)
    model = MoleBlend(ModelConfig(**PRESETS[SIZE], heads=objective.heads(), **objective.config_fields())).train()
    weights = [term.weight for term in objective.terms()]
    print(float(np.mean(batch.num_atoms.numpy())), flush=True)
    for epoch, _ in enumerate(sys.stdin):
        start = time.process_time()
        ready = objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=epoch)
        weighted_loss(objective.loss_sums(model, ready), ready.counts, weights).backward()
        model.zero_grad()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps([time.process_time() - start, peak]), flush=True)


if __name__ == "__main__":
    take_steps(Path(sys.argv[1]), sys.argv[2])
