"""`moleblend report`: one self-contained page about a folder of runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moleblend_fs.cli.common import check_output, text_beside
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved, write_atomically
from moleblend_fs.shared_options import seed

if TYPE_CHECKING:
    from moleblend_fs.report.runs import Runs
    from moleblend_fs.report.training_logs import TrainingLog


PAGES = (".html", ".htm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN_DIR", type=Path, help="folder of runs: logs (*.log, *.jsonl) and results (*.json)")
    parser.add_argument("--output", metavar="FILE.html", type=Path, required=True, help="page to write")
    parser.add_argument("--title", default=None, help="title of the page (default: the folder's name)")
    parser.add_argument(
        "--store", metavar="STORE", type=Path, help="store of the pictured molecule (default: that of pretraining, or one under RUN_DIR)"
    )
    parser.add_argument(
        "--molecule",
        metavar="INDEX",
        type=int,
        help="the molecule that is pictured as pretraining shows it to the model (default: chosen by --seed)",
    )
    parser.add_argument(
        "--seed", type=seed, default=1, help="of the choice, of the pictured draw and of the intervals' bootstrap (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and print the table of results."""
    try:
        import matplotlib  # noqa: F401
        import rdkit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"the report draws with {error.name}: pip install 'moleblend-fs[chem,report]'") from error
    from moleblend_fs.report.page import build, pictured_run
    from moleblend_fs.report.results import as_text, result_rows
    from moleblend_fs.report.runs import find_runs
    from moleblend_fs.report.settings import drawable_objectives

    check_page(args.output, args.runs, args.store)
    runs = find_runs(args.runs)
    pretraining, _ = pictured_run(runs) or (None, None)
    if pretraining is None and args.molecule is not None:
        raise UserError(
            f"--molecule pictures which relations pretraining shows, but no log in {args.runs} tells of an objective that shows only "
            f"some ({', '.join(drawable_objectives())})"
        )
    store = open_store(args.store, runs, pretraining)
    if args.molecule is not None and store is None:
        raise UserError("--molecule needs a --store: none was found under the folder of runs")
    page = build(runs, title=args.title or resolved(args.runs).name, molecule=args.molecule, store=store, seed=args.seed)
    write_atomically(args.output, page)
    for note in runs.notes:
        print(f"note: {note}", file=sys.stderr)
    with text_beside(args.output):
        if runs.evaluations:
            print(as_text(*result_rows(runs.evaluations)) + "\n")
        print(f"written: {args.output}")
    return 0


def check_page(output: Path, *inputs: Path | None) -> None:
    """UserError if the page would take the place of anything but a page in the folders that are read."""
    if output.suffix.lower() not in PAGES:
        check_output(output, *inputs)


def open_store(asked: Path | None, runs: "Runs", pretraining: "TrainingLog | None") -> Store | None:
    """The store of the pictured molecule, if possible that of pretraining; one that was not asked for may be damaged, which is reported."""
    if asked is not None:
        return Store(asked)
    if pretraining is None:
        return None
    data = Path(pretraining.settings.get("task.data", ""))
    for path in sorted(runs.stores, key=lambda path: (path != resolved(data), path.name != data.name)):
        try:
            return Store(path)
        except UserError as error:
            runs.notes.append(f"no picture of a molecule of it: {error}")
    return None
