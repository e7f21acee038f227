"""`moleblend tune DATA --target NAME [OUT]`: search for settings on validation molecules, then one ordinary finetuning run with them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moleblend_fs.cli.common import say_precision
from moleblend_fs.cli.finetune import add_machine, add_settings, check_page, out_of, settings_of, show, stoppable
from moleblend_fs.files import resolved
from moleblend_fs.finetune import slurm
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run_folder import SELECTION
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.tuning.space import PARAMETERS, SPACES, check_space

if TYPE_CHECKING:
    from moleblend_fs.tuning.run import Tuned, Wanted

EPILOG = """examples:
  moleblend tune mine.csv runs/tuned --target logS
  moleblend tune mine.csv runs/tuned --target logS --space lr=1e-4..1e-2 --space batch-size=16,32 --trials 50
  moleblend tune mine.csv runs/tuned --target logS --weights runs/pretrain/checkpoint_best.pt --space table9 --space epochs=10,20
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Search for settings with Optuna: each trial trains a model and is scored on validation molecules; test molecules take no part.\n"
        "Then `moleblend finetune` runs once with the best settings, in a folder of its own in OUT, whose command.sh does that again, and\n"
        "scores the test molecules. A search that was stopped goes on with the same command; given at once in several terminals, or on\n"
        "several hosts that share OUT, all work on one search. OUT gets report.html, the history in trials.json, and each trial's command."
    )
    parser.epilog = EPILOG
    add_settings(parser, "tune")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--trials", type=int, default=20, metavar="N", help="in all; more of them go on with a search (default %(default)s)"
    )
    search.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="SPACE",
        help=f"what to search: NAME=LOW..HIGH or NAME=VALUE,VALUE, given several times, NAME one of "
        f"{', '.join(name.replace('_', '-') for name in PARAMETERS)}; or a named space, {', '.join(SPACES)}, which NAME=... changes "
        "(default: the paper's Table 9 from a checkpoint's --weights, otherwise around what `moleblend finetune` would choose)",
    )
    search.add_argument(
        "--validation-folds",
        type=int,
        default=1,
        metavar="K",
        help="score trials on K folds of the molecules that are not tested, one after the other (default: the split's own validation part)",
    )
    search.add_argument("--no-pruning", action="store_true", help="train every trial to its end")
    add_machine(parser, "trials")


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print what was found."""
    settings, out = settings_of(arguments), out_of(arguments)
    check_page()
    say_precision(arguments, "cpu")
    check_space(arguments.space, settings)
    from moleblend_fs.tuning.run import Wanted, prepared, tune

    wanted = Wanted(
        trials=arguments.trials, space=tuple(arguments.space), folds=arguments.validation_folds, pruning=not arguments.no_pruning
    )

    if arguments.slurm and on_slurm(arguments, settings, wanted, Path(out)):
        return 0

    def work(progress: Progress) -> "Tuned | None":
        if arguments.step == slurm.PREPARE:
            prepared(arguments.data, out, settings, wanted, jobs=arguments.jobs, progress=progress, cache=not arguments.no_cache)
            return None
        only = arguments.step == slurm.WORK
        jobs, cache = 1 if only else arguments.jobs, not arguments.no_cache
        return tune(arguments.data, out, settings, wanted, jobs=jobs, progress=progress, only_search=only, cache=cache)

    tuned, stopped = stoppable(work, arguments, out)
    if tuned is not None:
        print(found(tuned))
        show(tuned.outcome, verbose=arguments.verbose)
        print(f"  the search: {out}/report.html")
    return 130 if stopped else 0


def on_slurm(arguments: argparse.Namespace, settings: Settings, wanted: "Wanted", out: Path) -> bool:
    """Submit, or say how far it is; False where all trials have ended. Each task of the array runs trials until none is left."""
    from moleblend_fs.tuning.run import ended, finished, look_at

    folder = resolved(out)

    def planned() -> slurm.Plan:
        look_at(arguments.data, out, settings, wanted)
        words = [
            "tune",
            arguments.data,
            str(out),
            *settings.words(),
            *wanted.words(),
            "--jobs",
            slurm.setting("CPUS"),
            *["--no-cache"] * arguments.no_cache,
        ]
        left = wanted.trials - ended(folder)
        tasks = range(min(max(left, 0 if finished(folder) else 1), int(slurm.setting("PARALLEL"))))
        return slurm.Plan(out=folder, words=words, missing=tasks, prepared=(folder / SELECTION).is_file(), what="tasks that run trials")

    def how_far() -> str:
        return f"{ended(folder)} of {wanted.trials} trials have ended"

    return slurm.handled(folder, arguments.sbatch, how_far, planned)


def found(tuned: "Tuned") -> str:
    """The winner in a sentence."""
    states = [each.state for each in tuned.tried]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    chosen = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in tuned.best.settings.items())
    return f"trial {tuned.best.number} of {len(states)} ({counts}) has the best validation {tuned.metric}, {tuned.best.score:.4g}: {chosen}"
