"""Replaces `fairseq.options.parse_args_and_arch` (fairseq 0.12): what a command lacks is reported in one sentence.

fairseq itself ends in `RuntimeError()`, an assertion, or another task's error.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fairseq import options
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

from fairseq_plugins.criterion import Pretraining, PropertyPrediction
from fairseq_plugins.finetuning_task import FinetuningTask
from fairseq_plugins.model import FairseqMoleBlend
from fairseq_plugins.patches.call_main import exit_with
from fairseq_plugins.pretraining_task import PretrainingTask
from fairseq_plugins.task import StoreTask
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import PRESETS
from moleblend_fs.objectives.registry import DEFAULT_OBJECTIVE

PINS = {
    "fairseq.options.parse_args_and_arch": "e7f96c62d047",
    "fairseq_cli.train.cli_main": "2848d9688341",
}
CRITERIONS: dict[type, tuple[str, type]] = {
    PretrainingTask: (DEFAULT_OBJECTIVE, Pretraining),
    FinetuningTask: ("property_prediction", PropertyPrediction),
}
"""Task -> the name of the criterion that it goes with by default, and the class of all that it goes with."""
SCHEDULES = {
    "cosine": ("--max-update", "--lr-period-updates"),
    "polynomial_decay": ("--total-num-update",),
    "triangular": ("--max-lr",),
    "tri_stage": ("--phase-ratio", "--warmup-steps", "--hold-steps", "--decay-steps"),
}
"""--lr-scheduler -> options of which it needs one."""

HELP = {"-h", "--help"}
OURS = "moleblend"
"""The task whose options are shown where none is named."""

_fairseq_parse = options.parse_args_and_arch


def install() -> None:
    """Put ours in its place."""
    options.parse_args_and_arch = parse_args_and_arch


@functools.wraps(_fairseq_parse)
def parse_args_and_arch(
    parser: argparse.ArgumentParser,
    input_args: Sequence[str] | None = None,
    *args: Any,
    modify_parser: Callable[..., Any] | None = None,
    **kw: Any,
) -> Any:
    """fairseq's, after `check`; with --help, the options of task, architecture and all else that is named as well."""
    words = list(sys.argv[1:] if input_args is None else input_args)
    if asked := HELP.intersection(words):
        words = [word for word in words if word not in asked]
        known, _ = parser.parse_known_args(words)
        if hasattr(known, "arch") and hasattr(known, "criterion"):
            print_help(parser, words, known)
    known, rest = parser.parse_known_args(words)
    if hasattr(known, "arch") and hasattr(known, "criterion"):  # training, not one of fairseq's other commands
        try:
            check(known, rest)
        except UserError as error:
            exit_with(error)
    return _fairseq_parse(parser, input_args, *args, modify_parser=modify_parser, **kw)


def print_help(parser: argparse.ArgumentParser, words: list[str], known: argparse.Namespace) -> None:
    """Print what can be given to a training command, and end it. What is not named is ours: fairseq's defaults are for translation.

    fairseq prints its help before it adds any option of a task, model, criterion, optimizer or schedule.
    """
    task = OURS if known.task == parser.get_default("task") else known.task
    for kind, (criterion, _) in CRITERIONS.items():
        if issubclass(TASK_REGISTRY.get(task, object), kind) and known.criterion == parser.get_default("criterion"):
            words = [*words, "--criterion", criterion]
    if known.arch is None:
        words = [*words, "--arch", f"moleblend_{next(iter(PRESETS))}"]
    calls: list[argparse.ArgumentParser] = []

    def print_complete(complete: argparse.ArgumentParser) -> None:
        calls.append(complete)
        if len(calls) == 2:  # before its last reading of the words, when all options are there
            complete.print_help()
            sys.exit(0)

    _fairseq_parse(parser, [*words, "--task", task], modify_parser=print_complete)


def check(known: argparse.Namespace, rest: Sequence[str]) -> None:
    """All that is missing or does not go together.

    Args:
        known: what fairseq's parser reads before it knows task, model and schedule.
        rest: words that it does not know then.

    Raises:
        UserError: it names what to give.
    """
    task = TASK_REGISTRY.get(known.task)
    if task is None or not issubclass(task, StoreTask):
        raise UserError(
            f"--task moleblend (pretraining, with --criterion {CRITERIONS[PretrainingTask][0]}) or --task moleblend_finetune "
            f"(with --criterion {CRITERIONS[FinetuningTask][0]}) is needed{_but(known.task, 'translation')}"
        )
    problems = []
    arch = ARCH_MODEL_REGISTRY.get(known.arch)
    if arch is None or not issubclass(arch, FairseqMoleBlend):
        names = ", ".join(f"moleblend_{size}" for size in PRESETS)
        problems.append(f"--arch is needed, one of {names}{_but(known.arch, None)}; the one of the weights that are started from")
    name, criterion = next(fitting for kind, fitting in CRITERIONS.items() if issubclass(task, kind))
    if not issubclass(CRITERION_REGISTRY.get(known.criterion, object), criterion):
        problems.append(f"--task {known.task} goes with --criterion {name}{_but(known.criterion, 'cross_entropy')}")
    problems += _schedule(known, rest)
    if problems:
        raise UserError("; ".join(problems))


def _schedule(known: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    needed = SCHEDULES.get(known.lr_scheduler, ())
    given = {word.split("=")[0] for word in rest}
    if known.lr_scheduler == "cosine" and not given & set(needed) and known.max_update > 0:
        reader = argparse.ArgumentParser(add_help=False)
        reader.add_argument("--warmup-updates", type=int, default=0)
        warm_up = reader.parse_known_args(list(rest))[0].warmup_updates
        if warm_up != known.max_update:  # where it is longer, the run ends before any cosine
            return []
        return [f"--warmup-updates {warm_up} leaves no update of --max-update {warm_up} to --lr-scheduler cosine; give one fewer"]
    if not needed or given & set(needed):
        return []
    example = {"cosine": ": the number of updates of the whole run, over which the learning rate falls to its end"}
    return [f"--lr-scheduler {known.lr_scheduler} needs {' or '.join(needed)}{example.get(known.lr_scheduler, '')}"]


def _but(given: str | None, default: str | None) -> str:
    """What was given instead, if not fairseq's own default."""
    return "" if given is None or given == default else f", not {given}"
