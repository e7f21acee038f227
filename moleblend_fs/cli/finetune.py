"""`moleblend finetune DATA --target NAME [OUT]`: from a table of molecules to models, predictions, scores and a report."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TypeVar

from moleblend_fs.cli.common import say_precision
from moleblend_fs.data.model_description import INPUTS
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved
from moleblend_fs.finetune import run_folder, slurm
from moleblend_fs.finetune.member_processes import Training, finished
from moleblend_fs.finetune.metrics import MODEL_NAME
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import Outcome, begin, collect, finetune, look
from moleblend_fs.finetune.settings import ARCHITECTURES, READOUTS, SPLITS, Settings
from moleblend_fs.finetune.slurm import STEPS
from moleblend_fs.report.finetune_page import cell, first_lines
from moleblend_fs.shared_options import HEAD_STARTS, add_precision, seed
from moleblend_fs.wording import counted

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Learn properties of molecules from a table (CSV, TSV, semicolons, Excel, Parquet), an SD file, packed ones too, or a store. OUT "
        "gets the models and the command of each, splits.json, predictions with all columns of the table, metrics.json with baselines, and "
        "report.html. A run that was stopped goes on when the same command is given again."
    )
    add_settings(parser, "finetune")
    split = parser.add_argument_group("cross-validation")
    split.add_argument("--folds", type=int, default=1, metavar="K", help="each molecule is tested in one of K folds")
    split.add_argument("--repeats", type=int, default=1, metavar="R", help="split R times anew")
    add_machine(parser, "models")


def add_settings(parser: argparse.ArgumentParser, command: str) -> None:
    """DATA, OUT, and what shapes the result, for all commands that train."""
    default = Settings()
    parser.set_defaults(folds=1, repeats=1)
    parser.add_argument("data", metavar="DATA", help="table with SMILES and values, SD file, or folder of a store")
    parser.add_argument("out", metavar="OUT", nargs="?", help=f"folder of the run (default: runs/{command}-NAME)")
    target = parser.add_argument_group("what is learned")
    target.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME[:KIND[:UNIT]]",
        help="a column to learn; several: given several times, with commas, or a pattern such as 'NR-*'",
    )
    target.add_argument("--kind", choices=("regression", "classification"), default="", help="of all targets that do not say it themselves")
    target.add_argument("--smiles-column", default="", metavar="NAME", help="column of SMILES (default: found by its name)")
    _add_split(parser)
    model = parser.add_argument_group("model (by default what docs/finetune.md says for the number of molecules)")
    model.add_argument(
        "--weights",
        default="",
        metavar="NAME",
        help="to start from: a name of published weights, the path of a checkpoint, or none for random ones (default: small, which "
        "comes with the package, where it fits --arch, --hydrogens and --inputs; else none)",
    )
    model.add_argument(
        "--inputs",
        choices=INPUTS,
        default=default.inputs,
        help="3d makes conformers where DATA has no structures; predicted3d: distances that --weights predict from 2D",
    )
    model.add_argument("--hydrogens", choices=("explicit", "none"), default="", help="default: those of the weights, otherwise none")
    model.add_argument("--arch", choices=ARCHITECTURES, default="", help="size of a model that starts from random weights")
    model.add_argument("--readout", choices=READOUTS, default="", help="what stands for a molecule (default: as --weights, or token)")
    model.add_argument(
        "--head-start", choices=HEAD_STARTS, default="", help="of its last layer on weights: docs/finetune.md (default: random)"
    )
    scale_help = "steps of the last layer, of the encoder's (default: 10, without weights or with --head-start ridge 1)"
    model.add_argument("--output-scale", type=float, default=0.0, metavar="X", help=scale_help)
    model.add_argument("--ensemble", type=int, default=default.ensemble, metavar="N", help="models of each fold (default %(default)s)")
    model.add_argument("--epochs", type=int, default=0, metavar="N", help="passes over the training molecules")
    model.add_argument("--batch-size", type=int, default=0, metavar="N", help="molecules in an update")
    model.add_argument("--lr", type=float, default=0.0, help="largest learning rate")
    model.add_argument("--weight-decay", type=float, default=0.0, metavar="D", help="decoupled (default %(default)g)")
    model.add_argument("--dropout", type=float, metavar="P", help="of the outputs of each block's branches (default: the model's, 0)")
    model.add_argument("--attention-dropout", type=float, metavar="P", help="of attention probabilities (default: the model's, 0.1)")
    model.add_argument("--regression-loss", choices=("mse", "mae"), default=default.regression_loss)
    model.add_argument("--conformers", type=int, default=1, metavar="K", help="of each molecule, where they are made (default 1)")
    model.add_argument("--seed", type=seed, default=0, help="of splits and models (default 0)")
    add_precision(model)
    model.add_argument("--level", type=float, default=default.level, help="of the intervals (default %(default)s)")


def _add_split(parser: argparse.ArgumentParser) -> None:
    """How the molecules are divided."""
    split = parser.add_argument_group("split")
    split.add_argument(
        "--split",
        choices=SPLITS,
        default="",
        help="scaffold: whole scaffolds, largest first; scaffold-balanced: at random; butina: whole clusters of similar molecules; random; "
        "column, file: as the table or a file says; store: the store's own (default: scaffold; store where DATA is a store with splits)",
    )
    split.add_argument("--split-column", default="", metavar="NAME", help="column that says train, valid or test")
    split.add_argument("--split-file", default="", metavar="FILE", help="JSON of rows: see docs/data.md, folds over one store")
    split.add_argument("--split-fractions", default="0.8,0.1,0.1", metavar="F,F,F", help="train, valid, test (default %(default)s)")


def add_machine(parser: argparse.ArgumentParser, what: str) -> None:
    """What does not shape the result."""
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help=f"{what} at a time (default: one for each GPU or core)")
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="make molecules anew, and keep them for no other run; otherwise those that a run made of a table are kept in $MOLEBLEND_CACHE "
        "(default ~/.cache/moleblend_fs) and taken by others",
    )
    slurm = parser.add_argument_group("Slurm (docs/launching.md)")
    slurm.add_argument(
        "--slurm",
        action="store_true",
        help=f"submit {what} as an array of jobs, and what collects them; the same command again says how far they are, or what it came to",
    )
    slurm.add_argument("--sbatch", default="", metavar="OPTIONS", help='for sbatch: --sbatch="--partition=gpu --time=2:00:00"')
    slurm.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--verbose", action="store_true", help="show what is found out about the input, and bars")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The options as settings."""
    try:
        fractions = tuple(float(part) for part in arguments.split_fractions.split(","))
    except ValueError:
        fractions = ()
    if len(fractions) != 3:
        raise UserError(f"--split-fractions must be three numbers like 0.8,0.1,0.1, got {arguments.split_fractions!r}")
    split = arguments.split or ("column" if arguments.split_column else "file" if arguments.split_file else "")
    return Settings(
        targets=tuple(arguments.target),
        kind=arguments.kind,
        smiles_column=arguments.smiles_column,
        split=split,
        split_column=arguments.split_column,
        split_file=arguments.split_file,
        fractions=fractions,
        folds=arguments.folds,
        repeats=arguments.repeats,
        ensemble=arguments.ensemble,
        seed=arguments.seed,
        weights=arguments.weights,
        inputs=arguments.inputs,
        hydrogens=arguments.hydrogens,
        arch=arguments.arch,
        readout=arguments.readout,
        head_start=arguments.head_start,
        output_scale=arguments.output_scale,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        weight_decay=arguments.weight_decay,
        dropout=arguments.dropout,
        attention_dropout=arguments.attention_dropout,
        regression_loss=arguments.regression_loss,
        conformers=arguments.conformers,
        level=arguments.level,
        precision=arguments.precision,
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print the table."""
    settings, out = settings_of(arguments), out_of(arguments)
    check_page()
    say_precision(arguments, "cpu")
    command = shlex.join(["moleblend", *sys.argv[1:]]) if sys.argv[1:2] == ["finetune"] else ""

    if arguments.slurm and on_slurm(arguments, settings, Path(out)):
        return 0

    def work(progress: Progress) -> Outcome | None:
        if arguments.step is not None:
            return one_step(arguments, settings, Path(out), progress)
        return finetune(
            arguments.data, out, settings, jobs=arguments.jobs, progress=progress, command=command, cache=not arguments.no_cache
        )

    outcome, stopped = stoppable(work, arguments, out)
    if outcome is not None:
        show(outcome, verbose=arguments.verbose)
    return 130 if stopped else 0


def one_step(arguments: argparse.Namespace, settings: Settings, out: Path, progress: Progress) -> Outcome | None:
    """What a job of Slurm does; the last one comes to something to show."""
    if arguments.step == slurm.COLLECT:
        return collect(arguments.data, out, settings, jobs=arguments.jobs, progress=progress)
    with run_folder.at_work(Path(arguments.data), resolved(out), shared=arguments.step == slurm.WORK) as lock:
        begun = begin(arguments.data, out, settings, jobs=arguments.jobs, progress=progress, cache=not arguments.no_cache)
        if arguments.step == slurm.WORK:
            member = begun.members()[int(os.environ["SLURM_ARRAY_TASK_ID"])]
            progress.stage(f"training {member.name}")
            Training(begun.folder, [member], 1, progress.updates, kept=[lock]).run()
    return None


def on_slurm(arguments: argparse.Namespace, settings: Settings, out: Path) -> bool:
    """Submit, or say how far it is; False where everything is there to be collected."""
    folder = resolved(out)

    def planned() -> slurm.Plan:
        look(arguments.data, out, settings)
        prepared, missing = (folder / run_folder.SPLITS).is_file(), list(range(settings.members()))
        if prepared:
            begun = begin(arguments.data, out, settings, progress=Progress(quiet=True))
            missing = [number for number, member in enumerate(begun.members()) if not finished(begun.folder, member)]
        words = [
            "finetune",
            arguments.data,
            str(out),
            *settings.words(),
            "--jobs",
            slurm.setting("CPUS"),
            *["--no-cache"] * arguments.no_cache,
        ]
        return slurm.Plan(out=folder, words=words, missing=missing, prepared=prepared, what="members")

    def how_far() -> str:
        return f"{sum(1 for _ in folder.glob('members/*/finished.json'))} of {settings.members()} members are trained"

    return slurm.handled(folder, arguments.sbatch, how_far, planned)


def check_page() -> None:
    """Say before all is trained, and not after, that the page cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


def out_of(arguments: argparse.Namespace) -> str:
    """The run's folder; UserError for what is none of the settings' to check."""
    if arguments.jobs < 0:
        raise UserError(f"--jobs must not be negative, got {arguments.jobs}")
    if arguments.out is not None:
        return arguments.out
    return os.path.join("runs", f"{arguments.command}-{Path(arguments.data).name.split('.')[0]}")


def stoppable(work: Callable[[Progress], T], arguments: argparse.Namespace, out: str) -> tuple[T | None, bool]:
    """(what `work` gives, False); (None, True), and a word about going on, where a signal stopped the command."""
    before = signal.signal(signal.SIGTERM, _told_to_stop)
    progress = Progress(verbose=arguments.verbose, command=arguments.command)
    try:
        return work(progress), False
    except KeyboardInterrupt:
        progress.end()
        print(f"moleblend {arguments.command}: stopped; the same command goes on, in {out}", file=sys.stderr)
        return None, True
    finally:
        signal.signal(signal.SIGTERM, before)


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def show(outcome: Outcome, *, verbose: bool) -> None:
    """The sentence and the small table."""
    metrics = outcome.metrics
    for line in first_lines(metrics):
        print(line)
    for target, about in metrics["targets"].items():
        if len(metrics["targets"]) <= 5 or verbose:
            print(f"  {target}: {about['kind']}{', in ' + about['unit'] if about['unit'] else ''}")
    if metrics["models"]:
        scores = list(next(iter(metrics["models"].values()))["mean"])[:3]
        width = max(map(len, metrics["models"]))
        print(f"  {'':<{width}}  " + "  ".join(f"{score:>27}" for score in scores))
        for name, of in metrics["models"].items():
            told = "trained model" if name == MODEL_NAME else name
            print(f"  {told:<{width}}  " + "  ".join(f"{cell(of['mean'].get(score)):>27}" for score in scores))
    print(f"  {outcome.began}")
    if outcome.failed:
        print(f"  {counted(outcome.failed, 'row')} gave no molecule: the column status of {outcome.out / 'predictions_oof.csv'} says why")
    for note in outcome.notes if verbose else ():
        print(f"  note: {note}")
    print(f"  {outcome.out / 'report.html'}; predict others with: moleblend predict {outcome.out} INPUT")
