"""Runs the grid of the evidence: see run.sh."""

import argparse
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from cells import run_cell
from cleaning import prepare
from grid_runs import each
from plan import Plan
from results import write

from moleblend_fs.errors import UserError


def processes(jobs: int) -> ProcessPoolExecutor:
    """Each run in a process of its own, so that its memory is its own; forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cells"])
    return ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1)


def run(plan: Plan, out: Path, data: Path, step: str, jobs: int) -> int:
    """All, or one step of it."""
    kind, _, number = step.partition(":")
    if kind not in ("all", "stores", "run", "table"):
        raise UserError(f"--only must be stores, run, run:N or table, got {step!r}")
    if number and not (number.isdigit() and int(number) < len(plan.cells)):
        raise UserError(f"--only {step}: there are the runs 0 to {len(plan.cells) - 1}")
    for name in plan.missing:
        print(f"run.sh: left out, since WEIGHTS names no checkpoint: {name}", file=sys.stderr)
    if kind in ("all", "stores"):
        prepare(plan, data, out)
    code = 0
    if kind in ("all", "run"):
        cells = [plan.cells[int(number)]] if number else plan.cells
        left = [cell for cell in cells if not cell.row(out).is_file()]
        if unprepared := next((cell for cell in left if not cell.splits(out).is_file()), None):
            raise UserError(f"{unprepared.splits(out)} is not there; run --only stores first")
        code = each(partial(run_cell, plan, out), left, jobs, processes) if left else 0
    if kind in ("all", "table"):
        complete = write(plan, out)
        code = code or (0 if complete or kind == "table" else 1)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.sh", description="When pretraining helps: methods compared on the same splits.")
    parser.add_argument("--scale", default="ci", help="ci, cpu or full (default: %(default)s)")
    parser.add_argument("--only", default="all", metavar="STEP", help="stores, run[:N] or table")
    parser.add_argument("--list", action="store_true", help="print the runs and do nothing")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="runs at a time (default: one a core)")
    arguments = parser.parse_args()
    try:
        weights = os.environ.get("WEIGHTS") or ""
        if weights and not Path(weights).exists():
            raise UserError(f"WEIGHTS={weights}: there is no such checkpoint")
        plan = Plan(arguments.scale, str(Path(weights).resolve()) if weights else "")
        out = Path(os.environ.get("OUT") or f"runs/evidence/{arguments.scale}").resolve()
        if arguments.list:
            for number, cell in enumerate(plan.cells):
                print(f"run:{number}", cell.method, cell.data, cell.version, cell.protocol, cell.split, f"seed{cell.seed}", sep="\t")
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
