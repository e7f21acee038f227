"""What the commands that run a model share: options, and checks before they begin."""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moleblend_fs.data.model_description import Described
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.files import is_stream, resolved
from moleblend_fs.inference.checkpoint_fit import FLAG, FLAG_HELP, Purpose, Use, compare, parse_allowed
from moleblend_fs.shared_options import PRECISIONS, add_precision
from moleblend_fs.wording import counted

if TYPE_CHECKING:
    from moleblend_fs.inference.predict import Runner

ROWS_NAMED = 10
"""Source rows that a message names, at most."""


def add_runner_arguments(parser: argparse.ArgumentParser, *, precision: bool = True, rows: bool = False) -> None:
    """Where and how a model runs.

    Args:
        precision: whether that is to be chosen. rows: whether molecules are made of rows, by processes whose number is chosen; otherwise
            those are meant that load a store.
    """
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--max-tokens", type=int, default=16_384, help="most tokens in a batch (default: %(default)s)")
    if rows:
        told = "processes that make molecules (default: as many as cores, at most 8; none for single SMILES); 0: none besides this one"
    else:
        told = "processes that load molecules (default: %(default)s)"
    parser.add_argument("--workers", type=int, default=None if rows else 0, metavar="N", help=told)
    if precision:
        add_precision(parser)
    else:
        parser.set_defaults(precision=PRECISIONS[0])


def add_rows_arguments(parser: argparse.ArgumentParser, *, smiles: bool = True) -> None:
    """How molecules that are in no store are read; with an option for SMILES, where they are not words of the command."""
    if smiles:
        parser.add_argument("--smiles", nargs="+", metavar="SMILES", help="molecules, in place of an input")
    parser.add_argument("--smiles-column", metavar="NAME", help="the table's column of SMILES (default: the one that is called smiles)")
    parser.add_argument("--format", choices=("csv", "smiles", "sdf"), help="what the input is (default: told from its content)")
    parser.add_argument("--hydrogens", choices=("none", "explicit"), help="for models that do not say what they were trained on")
    parser.add_argument("--row-timeout", type=float, default=60.0, metavar="SECONDS", help="time limit for a row (default: %(default)g)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def add_split_arguments(parser: argparse._ActionsContainer) -> None:
    """Splits that training took from a file."""
    parser.add_argument("--split-file", metavar="FILE", help="JSON file with splits to take in place of the store's own, as training did")
    parser.add_argument("--fold", default="", metavar="NAME", help="which fold of --split-file, where it has several")


def add_comparison_argument(parser: argparse.ArgumentParser) -> None:
    """What may differ between what a checkpoint was trained on and the store."""
    parser.add_argument(FLAG, default="", metavar="LIST", help=FLAG_HELP)


def say(arguments: argparse.Namespace, line: str) -> None:
    """Something that a user should know, on stderr."""
    print(f"moleblend {arguments.command}: {line}", file=sys.stderr)


def say_precision(arguments: argparse.Namespace, device: str) -> None:
    """That bfloat16 gains nothing, where it is asked for and this processor does not have it."""
    if arguments.precision == PRECISIONS[0] or device != "cpu":
        return
    from moleblend_fs.ops.precision import bfloat16_instructions

    if not bfloat16_instructions():
        say(arguments, "this processor has neither avx512_bf16 nor AMX: --precision bf16 is slower here than float32")


def say_written(output: Path, count: int, thing: str) -> None:
    """The last line of a command that wrote a file: on stderr where stdout is the file."""
    print(f"{counted(count, thing)}: {output}", file=sys.stderr if is_stream(output) else sys.stdout)


def compare_with_store(
    checkpoint: Described, store: Store, arguments: argparse.Namespace, purpose: Purpose, *, inputs: str, split: str = ""
) -> None:
    """Tell on stderr how a checkpoint fits a store; UserError where it does not. See `inference.checkpoint_fit.Use`."""
    allowed = parse_allowed(arguments.allow_differences)
    trained_on = TrainedOn.of(store.manifest)
    use = Use(purpose=purpose, store=trained_on, name=str(store.path), inputs=inputs, split=split, allowed=allowed)
    for line in compare(checkpoint, use).lines:
        say(arguments, line)


def runner(arguments: argparse.Namespace) -> "Runner":
    """The runner that the options ask for."""
    from moleblend_fs.inference.device import device_of
    from moleblend_fs.inference.predict import Runner

    device = device_of(arguments.device)
    check_runner(arguments)
    say_precision(arguments, device)
    return Runner(device=device, tokens=arguments.max_tokens, workers=arguments.workers or 0, precision=arguments.precision)


def check_runner(arguments: argparse.Namespace) -> None:
    """UserError for numbers that cannot be."""
    if arguments.workers is not None and arguments.workers < 0:
        raise UserError(f"--workers must not be negative, got {arguments.workers}")
    if arguments.max_tokens < 1:
        raise UserError(f"--max-tokens must be at least 1, got {arguments.max_tokens}")


def molecules_of(store: Store, split: str | None) -> np.ndarray:
    """Indices of a split's molecules, in the store's order; of all molecules, by their rows in the source, without a split.

    Raises:
        UserError: there is no such split, or it is empty, or the file of rows or of a split is damaged.
    """
    if split is None:
        for name in store.splits:
            store.split(name)  # compares the rows of its molecules, which name lines of the output, with the manifest's hash
        return np.argsort(store.source_row, kind="stable")
    indices = np.asarray(store.split(split))
    if len(indices) == 0:
        others = ", ".join(f"{name} {info.molecules}" for name, info in store.manifest.splits.items())
        raise UserError(f"split {split!r} of {store.path} is empty ({others}); choose another --split, or split the store in another way")
    return indices


def check_output(output: Path | None, *inputs: str | Path | None) -> None:
    """UserError if writing a file would overwrite what the command reads: an input file, or anything in an input folder."""
    for given in filter(None, inputs if output is not None else ()):
        place, source = resolved(output), resolved(given)  # type: ignore[arg-type]
        if place == source or (source.is_dir() and source in place.parents and place.exists()):
            raise UserError(f"{output} would overwrite what is read from {given}; choose another name for the output")


@contextmanager
def text_beside(*outputs: Path | None) -> Iterator[None]:
    """A block whose `print` goes to stderr, at its end, where one of the outputs goes where stdout may go: it holds that output alone."""
    if not any(output is not None and is_stream(output) for output in outputs):
        yield
        return
    with redirect_stdout(io.StringIO()) as text:
        yield
    sys.stderr.write(text.getvalue())


def check_told_apart(*outputs: Path | None) -> None:
    """UserError where two outputs are the same file, of which one would be lost."""
    seen: set[Path] = set()
    for output in filter(None, outputs):
        if not is_stream(output) and resolved(output) in seen:
            raise UserError(f"{output} is to be written twice; give each output a name of its own")
        seen.add(resolved(output))


def named_rows(rows: np.ndarray) -> str:
    """Some source rows, for a message: "row 3", "rows 1, 4, 5 and 7 more"."""
    named = ", ".join(map(str, rows[:ROWS_NAMED].tolist()))
    more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{more}"
