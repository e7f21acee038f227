"""Runs the grid of the evidence: see run.sh."""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from cells import run_cell
from grid_runs import each
from methods import METHODS
from page import publish, write
from peers import make_environments
from plan import Cell, Plan, weights_of
from restoring import restore
from results import agree, collect
from splitting import prepare

from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically

STEPS = ("all", "stores", "restore", "run", "table", "publish")


def processes(jobs: int) -> ProcessPoolExecutor:
    """Each run in a process of its own, so that its memory is its own; forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cells"])
    return ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1)


def run(plan: Plan, out: Path, data: Path, step: str, jobs: int) -> int:
    """All, or one step of it."""
    kind, _, number = step.partition(":")
    if kind not in STEPS or (number and kind != "run"):
        raise UserError(f"--only must be stores, restore, run, run:N, table or publish, got {step!r}")
    if number and not (number.isdigit() and int(number) < len(plan.cells)):
        raise UserError(f"--only {step}: there are the runs 0 to {len(plan.cells) - 1}")
    for name in plan.missing:
        print(f"run.sh: left out, since WEIGHTS names no weights: {METHODS[name].title}", file=sys.stderr)
    if kind == "restore":
        agree(plan, out)
        prepare(plan, data, out)
        print(f"run.sh: {restore(plan, out)}")
        return 0
    failed = prepared(plan, data, out) if kind in ("all", "stores") else not_installed(out)
    cells = [plan.cells[int(number)]] if number else plan.cells
    code = run_cells(plan, out, cells, failed, jobs) if kind in ("all", "run") else 0
    if kind in ("all", "table", "publish"):
        undone = collect(plan, out, failed)
        write(out, out / "evidence.md", out / "figures")
        written = [out / name for name in ("runs.csv", "pairs.csv", "evidence.html", "evidence.md")]
        written += publish(out) if kind == "publish" else []
        print(f"written: {', '.join(map(str, written))}")
        code = code or (1 if undone and kind == "all" else 0)
    return code


def prepared(plan: Plan, data: Path, out: Path) -> dict[str, str]:
    """Tables, splits and environments; program -> why its environment could not be made."""
    agree(plan, out)
    prepare(plan, data, out)
    failed = make_environments(plan)
    for program, why in failed.items():
        print(f"run.sh: left out: {program}: {why}", file=sys.stderr)
    write_atomically(out / "not-installed.json", json.dumps(failed) + "\n")
    return failed


def not_installed(out: Path) -> dict[str, str]:
    """What `prepared` has found."""
    path = out / "not-installed.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def run_cells(plan: Plan, out: Path, cells: list[Cell], failed: dict[str, str], jobs: int) -> int:
    """Those that have no row yet; the first exit code that is not 0."""
    left = [cell for cell in cells if not cell.row(out).is_file() and METHODS[cell.method].program not in failed]
    if unprepared := next((cell for cell in left if not cell.splits(out).is_file()), None):
        raise UserError(f"{unprepared.splits(out)} is not there; run --only stores first")
    return each(partial(run_cell, plan, out), left, jobs, processes) if left else 0


def names(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(word for word in text.split(",") if word)


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.sh", description="When pretraining helps: methods compared on the same splits.")
    parser.add_argument("--scale", default="ci", help="ci, box, night or full (default: %(default)s)")
    parser.add_argument("--only", default="all", metavar="STEP", help="stores, restore, run[:N], table or publish")
    parser.add_argument("--protocol", type=names, default=(), metavar="P", help="A or B alone")
    parser.add_argument("--methods", type=names, default=(), metavar="NAME,...", help="these alone")
    parser.add_argument("--data", type=names, default=(), metavar="NAME,...", help="these sets alone")
    parser.add_argument("--list", action="store_true", help="print the runs and do nothing")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="runs at a time (default: one a core)")
    arguments = parser.parse_args()
    try:
        weights = weights_of(os.environ.get("WEIGHTS") or "")
        plan = Plan(arguments.scale, weights, arguments.protocol, arguments.methods, arguments.data)
        out = Path(os.environ.get("OUT") or f"runs/evidence/{arguments.scale}").resolve()
        if arguments.list:
            for number, cell in enumerate(plan.cells):
                print(f"run:{number}", cell.folder, cell.data, cell.version, cell.protocol, cell.split, f"seed{cell.seed}", sep="\t")
            return 0
        data = Path(os.environ.get("DATA") or "data/moleculenet").resolve()
        return run(plan, out, data, arguments.only, max(1, arguments.jobs))
    except UserError as error:
        print(f"run.sh: error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode


if __name__ == "__main__":
    sys.exit(main())
