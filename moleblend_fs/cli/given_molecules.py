"""Molecules that a command is given to run a model on: a table, a list, an SD file, SMILES, standard input, or a store."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moleblend_fs.cli.common import compare_with_store, molecules_of, say
from moleblend_fs.data.accounting import EXCLUDED
from moleblend_fs.data.conformer_groups import JOINED
from moleblend_fs.data.model_description import Described
from moleblend_fs.data.store import MANIFEST, Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import is_pipe
from moleblend_fs.inference.checkpoint_fit import parse_allowed

ROW, SMILES, STATUS = "row", "smiles", "status"
STDOUT = Path("/dev/stdout")
PIPED = "standard input"
ALL_ROWS = "leave --split out to have them in the table"


class OpenedInput(NamedTuple):
    """What predictions are made of, opened.

    Attributes:
        columns: names of its own columns.
        begin: the rows from a place on.
        request: all that its rows depend on.
        total: how many rows there are.
        left_out: what became no row, by why; known once all is read.
    """

    columns: Sequence[str]
    begin: Callable[[int], Iterator[list[Any]]]
    request: dict[str, Any]
    total: Callable[[], int]
    left_out: Callable[[], Mapping[str, int]]


def check_given(arguments: argparse.Namespace, inputs: str) -> None:
    """Names of files in their places: with --smiles the only one is OUT.

    Args:
        inputs: what INPUT may be.

    Raises:
        UserError: neither or both of INPUT and --smiles are given, or a time limit that no row can keep.
    """
    if arguments.smiles is not None:
        from moleblend_fs.predictions.in_memory import FILE_ENDINGS

        if arguments.output is not None:
            raise UserError("give either an INPUT or --smiles, not both (one more name is OUT)")
        if names := [text for text in arguments.smiles if text.lower().endswith(FILE_ENDINGS)]:
            raise UserError(f"--smiles takes all that follows it, and {names[0]} is no SMILES; files stand before it")
        if flags := [f"--{name.replace('_', '-')}" for name in ("smiles_column", "format") if getattr(arguments, name) is not None]:
            raise UserError(f"{flags[0]} says how a file is read, and --smiles is none; leave it out")
        arguments.input, arguments.output = None, None if arguments.input is None else Path(arguments.input)
    elif arguments.input is None:
        raise UserError(f"give an INPUT ({inputs}), or molecules with --smiles")
    if not arguments.row_timeout > 0:
        raise UserError(f"--row-timeout must be above 0 seconds, got {arguments.row_timeout}")


@contextmanager
def named_input(arguments: argparse.Namespace) -> Iterator[None]:
    """An input that is a path, and an output; what standard input or a pipe of a name gives is kept in a temporary file meanwhile."""
    with tempfile.TemporaryDirectory(prefix="moleblend.") as folder:
        given = arguments.input
        stdin = given == "-"
        arguments.piped = PIPED if stdin else str(given) if given is not None and is_pipe(given) else ""
        if arguments.piped:
            if stdin and sys.stdin is None:
                raise UserError("standard input is closed; give the name of a file, or pipe molecules in")
            arguments.input = Path(folder) / "stdin"
            with open(arguments.input, "wb") as stream, nullcontext(sys.stdin.buffer) if stdin else open(given, "rb") as piped:
                shutil.copyfileobj(piped, stream, 1 << 20)
        elif given is not None:
            arguments.input = Path(given)
        if arguments.output is None:
            arguments.output = STDOUT if given is None or arguments.piped else default_output(arguments.input)
        elif arguments.output == Path("-"):
            arguments.output = STDOUT
        try:
            yield
        except UserError as error:
            if arguments.piped:
                raise UserError(str(error).replace(str(arguments.input), arguments.piped)) from error
            raise


def default_output(given: Path) -> Path:
    """Beside the input as it is called, where a link of that name leads elsewhere; UserError where there is a file of that name, which may
    be of another model."""
    place = Path(os.path.abspath(given))
    name = place.name
    for suffix in (".gz", ".gzip", ".xz", ".bz2", ".zip"):
        name = name.removesuffix(suffix)
    out = place.parent / f"{Path(name).stem}.predictions.csv"
    if os.path.lexists(out):
        raise UserError(f"{out} exists already; name it as OUT to write over it, or choose another")
    return out


def is_store(path: Path) -> bool:
    """Whether an input is to be read as a store: any folder, and what only a store's message explains."""
    return path.is_dir() or (not path.exists() and path.with_name(path.name + ".partial").is_dir()) or (path / MANIFEST).is_file()


def open_given(arguments: argparse.Namespace) -> Any:
    """Rows of a table, a list, an SD file, or SMILES of the command line; see `sources.molecules_to_predict`."""
    from moleblend_fs.sources.molecules_to_predict import IncomingSmiles, open_incoming

    if arguments.smiles is not None:
        return IncomingSmiles(arguments.smiles)
    incoming = open_incoming(arguments.input, smiles_column=arguments.smiles_column, kind=arguments.format)
    if arguments.piped:
        incoming.notes = tuple(note.replace(incoming.called, arguments.piped) for note in incoming.notes)
        incoming.called = arguments.piped
    return incoming


def open_rows(arguments: argparse.Namespace, checkpoint: Described, inputs: str) -> OpenedInput:
    """A table, a list, an SD file, or SMILES of the command line."""
    from moleblend_fs.predictions.hydrogens_and_structures import prepare
    from moleblend_fs.predictions.rows import default_workers, made_of
    from moleblend_fs.sources.base import content_hash

    for flag in ("source", "split", "split_file", "fold"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} goes with a store, {arguments.input or '--smiles'} is none; leave it out")
    incoming = open_given(arguments)
    for note in incoming.notes:
        say(arguments, note)
    allowed = parse_allowed(arguments.allow_differences)
    for line in prepare(
        incoming, checkpoint, purpose="predict", inputs=inputs, hydrogens=arguments.hydrogens, allowed=allowed, name=incoming.called
    ):
        say(arguments, line)
    workers = arguments.workers if arguments.workers is not None else (0 if arguments.smiles else default_workers())

    def begin(start: int) -> Any:
        return made_of(incoming, start, workers=workers, row_timeout=arguments.row_timeout)

    inputs_of = {"stdin" if path.name == "stdin" else str(path): content_hash(path) for path in incoming.files()}
    request = {"inputs": inputs_of, "options": incoming.options(), "smiles": arguments.smiles}
    return OpenedInput(incoming.columns, begin, request, incoming.count, incoming.left_out)


def open_stored(arguments: argparse.Namespace, checkpoint: Described, inputs: str) -> OpenedInput:
    """A store's molecules, with columns of its source where they are asked for."""
    from moleblend_fs.data.split_file import open_store
    from moleblend_fs.inference.predict import check_structures
    from moleblend_fs.predictions.rows import read_from

    for flag in ("smiles_column", "format", "hydrogens"):
        if getattr(arguments, flag) is not None:
            raise UserError(f"--{flag.replace('_', '-')} goes with tables and lists, {arguments.input} is a store; leave it out")
    store = open_store(arguments.input, arguments.split_file, arguments.fold)
    indices, whole = molecules_of(store, arguments.split), arguments.split is None
    compare_with_store(checkpoint, store, arguments, "predict", inputs=inputs)
    check_structures(store, inputs, "the model was finetuned with", every=False)
    carried_names = [] if arguments.source is None else carried(arguments.source, store)[0]
    names = [f"{name} (source)" if name in (ROW, SMILES, STATUS) else name for name in carried_names]

    def begin(start: int) -> Any:
        cells = None if arguments.source is None else carried(arguments.source, store)[1]
        return _from(start, read_from(store, indices, cells, whole=whole))

    def left_out() -> dict[str, int]:
        return rows_without_line(store) if whole else rows_of_no_split(store, indices)

    source = None if arguments.source is None else str(arguments.source)
    split = None if whole else store.manifest.splits[arguments.split].sha256
    request = {"inputs": {str(store.path): store.manifest.records_sha256}, "split": split, "source": source}
    return OpenedInput([ROW, SMILES, *names], begin, request, lambda: rows_with_line(store) if whole else len(indices), left_out)


def rows_with_line(store: Store) -> int:
    """How many rows of a store's source have a place in a table of all of it."""
    return len({*store.source_row.tolist(), *store.joined_rows[:, 0].tolist(), *(line.row for line in store.failures())})


def rows_without_line(store: Store) -> dict[str, int]:
    """What of a store's source became no row of a table of all of it, by why."""
    counts = {} if store.manifest.rows is None else store.manifest.rows.left_out
    listed = {EXCLUDED, JOINED} if store.manifest.joined is not None else {EXCLUDED}  # which former versions did not list
    return {why: count for why, count in counts.items() if why not in listed}


def rows_of_no_split(store: Store, indices: np.ndarray) -> dict[str, int]:
    """What does not stand in a table of some molecules of a store, by why: rows that gave none, and further rows of these."""
    joined = store.joined_rows
    known = {*store.source_row.tolist(), *joined[:, 0].tolist()}
    failed = {line.row for line in store.failures()} - known
    return {
        f"they belong to no split; {ALL_ROWS}": len(failed),
        f"they are {JOINED}; {ALL_ROWS}": int(np.isin(joined[:, 1], indices).sum()),
    }


def _from(start: int, parts: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """All but the first rows."""
    for part in parts:
        yield part[start:]
        start = max(0, start - len(part))


def carried(path: Path, store: Store) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The columns of the file that a store was made from."""
    from moleblend_fs.sources.extra_columns import carried_columns

    return carried_columns(path, store.manifest)
