"""Runs a table of the paper: see run.sh."""

import argparse
import csv
import gzip
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from grid import QM9, SCRATCH, Cell, Plan, Row
from grid_runs import PREEMPTED, ROOT, call, commit, each
from publish import publish
from table import COMMIT, write

from moleblend_fs.data.sidecar import CODES
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.objectives.registry import objectives

TOKENIZER = "mole_bert_tokenizer"
"""The objective whose model makes the sidecar of codes, with a tenth of a run's updates."""


def sample_of(table: Path, most: int) -> list[str]:
    """Options that take at most so many rows of a CSV file (or .csv.gz); 0, or a file that has no more: all of them."""
    with gzip.open(table, "rt", newline="") if table.suffix == ".gz" else table.open(newline="") as lines:
        rows = sum(1 for _ in csv.reader(lines)) - 1
    return ["--sample", str(most)] if 0 < most < rows else []


class Runs:
    """Makes stores, pretrains and finetunes; what is there already is left alone.

    Args:
        out: folder of all. data: folder of the MoleculeNet files.
    """

    def __init__(self, plan: Plan, out: Path, data: Path):
        self.plan, self.scale, self.out, self.data = plan, plan.scale, out, data

    @property
    def pretraining_store(self) -> Path:
        return self.out / "stores" / "pretraining"

    def store_of(self, data: str, inputs: str) -> Path:
        """QM9's is one for all targets; MoleculeNet's have conformers where they are looked at."""
        return self.out / "stores" / ("qm9" if data.startswith(QM9) else f"{data}_c{self._conformers(inputs)}")

    def _conformers(self, inputs: str) -> int:
        return int("3d" in inputs.split("+"))

    def stores(self) -> None:
        """All that the table needs."""
        if self.plan.pretrained:
            self._preprocess(self.pretraining_store, *self.scale.pretraining)
        for name in dict.fromkeys(name for row in self.plan.pretrained for name in sidecars_of(row)):
            if name != CODES and not (self.pretraining_store / "sidecars" / name).exists():
                call(["moleblend", "preprocess-sidecar", name, str(self.pretraining_store), "--no-progress"])
        for cell in {self.store_of(cell.data, cell.inputs): cell for cell in self.plan.cells}.values():
            store = self.store_of(cell.data, cell.inputs)
            if cell.data.startswith(QM9):
                self._preprocess(store, "qm9", *self.scale.qm9)
                continue
            found = [path for name in (f"{cell.data}.csv", f"{cell.data}.csv.gz") if (path := self.data / name).is_file()]
            if not found and not (store / "manifest.json").is_file():
                raise UserError(f"no {self.data}/{cell.data}.csv or {cell.data}.csv.gz; say where the files are: DATA=FOLDER")
            sample = sample_of(found[0], self.scale.molecules) if found else []
            conformers = ["--conformers", "1"] if self._conformers(cell.inputs) else []
            self._preprocess(store, "moleculenet", *map(str, found[:1]), "--name", cell.data, *sample, *conformers)

    def _preprocess(self, store: Path, source: str, given: str = "", *options: str) -> None:
        if not (store / "manifest.json").is_file():
            given = str(ROOT / given) if (ROOT / given).is_file() and not Path(given).is_file() else given
            call(["moleblend", "preprocess", source, given, str(store), *options, "--no-progress"])

    def pretrain(self, row: Row) -> None:
        """A model; before it the codes that it learns, if it learns codes."""
        if CODES in sidecars_of(row) and not (self.pretraining_store / "sidecars" / CODES).exists():
            self._train(TOKENIZER, max(1, self.scale.updates // 10), (), self.out / "pretrained" / TOKENIZER)
            tokenizer = self.out / "pretrained" / TOKENIZER / "checkpoint_last.pt"
            call(["moleblend", "tokenize", str(tokenizer), str(self.pretraining_store), "--no-progress"])
        self._train(row.objective, self.scale.updates, row.options, self.pretrained(row))

    def _train(self, objective: str, updates: int, options: Sequence[str], folder: Path) -> None:
        """By the examples' `train`, which goes on where it stopped."""
        scale = self.scale
        interval = str(max(1, updates // 20))
        words = [
            *("--task", "moleblend", "--criterion", "pretrain", "--objective", objective, "--arch", f"moleblend_{scale.arch}"),
            *("--batch-size", str(scale.batch), "--max-update", str(updates), "--seed", "1", "--num-workers", "2"),
            *("--optimizer", "adam", "--adam-betas", "(0.9, 0.999)", "--clip-norm", "5", "--lr", str(scale.lr)),
            *("--lr-scheduler", "cosine", "--warmup-updates", str(max(1, updates // 10))),
            *("--save-interval-updates", interval, "--validate-interval-updates", interval, "--keep-interval-updates", "1"),
            *("--log-interval", str(max(1, min(100, updates // 10))), *scale.precision, *options),
        ]
        script = f'source "{ROOT}/examples/common.sh"; train "$@"'
        call(["bash", "-c", script, "train", str(folder), str(self.pretraining_store), *words])

    def pretrained(self, row: Row) -> Path:
        """Folder of a pretrained model."""
        return self.out / "pretrained" / row.pretraining

    def finetune(self, cell: Cell) -> None:
        """One run, by the examples' scripts, and its score on the validation split."""
        store, scale = self.store_of(cell.data, cell.inputs), self.scale
        weights = "none" if cell.row.pretraining == SCRATCH else str(self.pretrained(cell.row) / "checkpoint_best.pt")
        settings = {"ONLY": "runs", "STORE": str(store), "INPUTS": cell.inputs, "ARCH": scale.arch, "PRETRAINED": weights}
        if cell.data.startswith(QM9):
            words = [str(ROOT / "examples/finetune_qm9/run.sh")]
            settings |= {
                "OUT": str(cell.group(self.out) / f"seed{cell.seed}"),
                "TARGET": cell.data.removeprefix(QM9),
                "SEED": str(cell.seed),
            }
            settings |= {"UPDATES": str(scale.qm9_updates)} if scale.qm9_updates else {}
            more = scale.qm9_options
        else:
            words = [str(ROOT / "examples/finetune_moleculenet/run.sh"), cell.data]
            settings |= {"OUT": str(cell.group(self.out)), "SEEDS": str(cell.seed), "SCRATCH": str(int(weights == "none"))}
            settings |= {"EPOCHS": str(scale.epochs)} if scale.epochs else {}
            more = ()
        call([*words, *scale.trials[cell.trial], *scale.options, *scale.precision, *more], settings)
        run = cell.folder(self.out)
        if not (run / "valid.json").is_file():
            words = ["moleblend", "evaluate", str(run / "checkpoint_best.pt"), str(store), "--split", "valid"]
            call([*words, "--json", str(run / "valid.json")])
        if not (run / COMMIT).is_file():
            write_atomically(run / COMMIT, commit() + "\n")


def sidecars_of(row: Row) -> tuple[str, ...]:
    """What an objective needs beside the molecules."""
    found = objectives()[row.objective]
    return found(found.Options()).sidecars()


def run(plan: Plan, runs: Runs, step: str, jobs: int) -> int:
    """All, or one step of it."""
    for row in plan.missing:
        print(f"run.sh: not available, left out: {row.published} (--objective {row.objective})", file=sys.stderr)
    kind, _, number = step.partition(":")
    parts = {"pretrain": (runs.pretrain, plan.pretrained), "finetune": (runs.finetune, plan.cells)}
    if kind in parts and number:
        work, items = parts[kind]
        return each(work, [items[int(number)]], 1)
    code = 0
    if kind in ("all", "stores"):
        runs.stores()
    for name, (work, items) in parts.items():
        if kind in ("all", name) and not code:
            code = each(work, items, jobs)
    if kind in ("all", "table") and code != PREEMPTED:
        complete = write(plan, runs.out)
        code = code or (0 if complete or kind == "table" else 1)
    if kind == "publish":
        publish(plan, runs.out)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.sh", description="A table of the paper.")
    parser.add_argument("table", help="table1, table2, ...")
    parser.add_argument("--scale", default="tiny", help="tiny, cpu or paper (default: %(default)s)")
    parser.add_argument("--only", default="all", metavar="STEP", help="stores, pretrain[:N], finetune[:N], table or publish")
    parser.add_argument("--list", action="store_true", help="print the runs and do nothing")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="runs at a time (default: one for each core)"
    )
    arguments = parser.parse_args()
    try:
        plan = Plan(arguments.table, arguments.scale)
        out = Path(os.environ.get("OUT") or f"runs/paper/{arguments.scale}").resolve()
        runs = Runs(plan, out, Path(os.environ.get("DATA") or "data/moleculenet").resolve())
        if arguments.list:
            for number, row in enumerate(plan.pretrained):
                print(f"pretrain:{number}", row.pretraining, *row.options, sep="\t")
            for number, cell in enumerate(plan.cells):
                print(
                    f"finetune:{number}", cell.data, cell.inputs, cell.row.pretraining, f"trial{cell.trial}", f"seed{cell.seed}", sep="\t"
                )
            return 0
        return run(plan, runs, arguments.only, max(1, arguments.jobs))
    except UserError as error:
        print(f"run.sh: error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode


if __name__ == "__main__":
    sys.exit(main())
