"""`moleblend embed`: representations of molecules in tables, lists, SD files and SMILES."""

import argparse
import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_rows_arguments,
    add_runner_arguments,
    check_output,
    check_runner,
    say,
    say_precision,
    say_written,
)
from moleblend_fs.cli.given_molecules import check_given, named_input, open_given
from moleblend_fs.data.model_description import INPUTS
from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, delimiter_of, resolved, whole_file
from moleblend_fs.inference.checkpoint_fit import parse_allowed
from moleblend_fs.wording import counted

ENDINGS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
TEXT = (".csv", ".tsv")
ROW_GROUP = 1024
"""Lines that go into a Parquet file at a time."""
EPILOG = """examples:
  moleblend embed runs/pretrain/checkpoint_best.pt new.csv new.npy                 # graph tokens, a row for each row
  moleblend embed runs/pretrain/checkpoint_best.pt new.sdf atoms.npz --level atom  # values[starts[i]:starts[i + 1]] are row i's atoms
  moleblend embed runs/pretrain/checkpoint_best.pt out.csv --smiles CCO c1ccccc1 --level mean --layer 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write representations of molecules: the graph token's, the mean of the atoms', or each atom's. Every row of the input has its\n"
        "row; where it gives no molecule, numbers are NaN (.npy, .npz) or empty, and the status of all but .npy says why.\n"
        "Files: .npy, an array (rows, width), float32. .npz, arrays values, smiles, status, and of atoms starts: row i's atoms are\n"
        "values[starts[i]:starts[i + 1]], in the order of its SMILES or record, hydrogens that were added last. .csv or .tsv, the input's\n"
        "columns and e0, e1, ...; of atoms a line for each atom. .parquet, the same columns, numbers as float32 (needs pyarrow)."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        help="checkpoint, pretrained or finetuned, folder of `moleblend finetune`, file of `moleblend export`, or "
        "name of published weights",
    )
    parser.add_argument("input", nargs="?", help="table with a column of SMILES, list of SMILES, SD file, perhaps packed; or -")
    parser.add_argument("output", nargs="?", type=Path, help=f"file to write, ending in {', '.join(ENDINGS)}")
    parser.add_argument(
        "--level",
        choices=("graph", "mean", "atom", "distances"),
        default="graph",
        help="what is written (default: %(default)s); distances: predicted distances between atoms in Angstrom, as matrices row by row, of "
        "models pretrained with --geometry-target distance",
    )
    parser.add_argument("--layer", type=int, metavar="N", help="after N blocks; 0 is what goes into the first (default: all)")
    parser.add_argument("--inputs", choices=INPUTS, help="what the model reads (default: as finetuned, else 2d)")
    parser.add_argument("--member", type=int, default=0, metavar="N", help="which model of a folder, from 0 (default: %(default)s)")
    add_rows_arguments(parser)
    add_comparison_argument(parser)
    add_runner_arguments(parser, rows=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    check_given(arguments, "a table, list of SMILES, SD file, or -")
    if arguments.output is None:
        raise UserError(f"give OUT, a file to write, ending in {', '.join(ENDINGS)}")
    ending = arguments.output.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{arguments.output}: the name must end in {', '.join(ENDINGS)}, which says what is written")
    if ending == ".npy" and arguments.level in ("atom", "distances"):
        raise UserError(f"--level {arguments.level} gives as many numbers as a molecule has atoms; write .npz, .csv or .parquet")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{arguments.output}: writing Parquet needs pyarrow: pip install pyarrow, or write .csv or .npz")
    with named_input(arguments):
        return write(arguments, ending)


def write(arguments: argparse.Namespace, ending: str) -> int:
    """Compute and write."""
    from moleblend_fs.predictions.embedder import Embedder

    if arguments.input is not None and arguments.input.is_dir():
        raise UserError(
            f"{arguments.input} is a folder; representations of a store's molecules are `moleblend predict ... --embeddings 2d`"
        )
    check_output(arguments.output, arguments.model, *filter(None, (arguments.input,)))
    check_runner(arguments)
    embedder = Embedder(
        arguments.model,
        inputs=arguments.inputs,
        layer=arguments.layer,
        member=arguments.member,
        device=arguments.device,
        max_tokens=arguments.max_tokens,
        precision=arguments.precision,
        workers=arguments.workers,
        hydrogens=arguments.hydrogens,
        allow_differences=parse_allowed(arguments.allow_differences),
        row_timeout=arguments.row_timeout,
        tell=lambda line: say(arguments, line),
    )
    say_precision(arguments, embedder.device)
    incoming = open_given(arguments)
    total = incoming.count()
    with embedder, contextlib.ExitStack() as stack:
        rows = embedded_rows(embedder, incoming, arguments.level, total, progress=not arguments.no_progress)
        stream = stack.enter_context(whole_file(arguments.output, "w" if ending in TEXT else "wb"))
        if ending in TEXT:
            table = CsvWriter(stream, delimiter=delimiter_of(arguments.output))
            failed = write_text(table.writerow, rows, incoming.columns, width_of(embedder, arguments.level), arguments.level)
        elif ending == ".parquet":
            failed = write_parquet(stream, rows, incoming.columns, width_of(embedder, arguments.level), arguments.level)
        elif ending == ".npy":
            failed = write_npy(stream, rows, (total, embedder.width))
        else:
            failed = write_npz(stream, rows, width_of(embedder, arguments.level), arguments.level, arguments.output)
    if failed:
        say(arguments, f"no representation of {failed:,} of {counted(total, 'row')}")
    say_written(arguments.output, total, "row")
    return 0


def width_of(embedder: Any, level: str) -> int:
    """Numbers of a molecule or atom; of each pair there is one."""
    return 1 if level == "distances" else embedder.width


def embedded_rows(embedder: Any, incoming: Any, level: str, total: int, *, progress: bool) -> Iterator[tuple[Any, Any, str]]:
    """(row, float32 values or None, status) of every row, with a bar."""
    from moleblend_fs.predictions.progress import RowProgress

    with RowProgress(total, shown=progress) as line:
        for window in embedder.windows(incoming, level):
            for place, row in enumerate(window.rows):
                values = window.values[place]
                status = "; ".join(["ok", *row.notes])
                if row.record is None:
                    status = f"no molecule: {row.reason}"
                elif values is None:
                    why = "not enough memory" if place in window.too_large else "no 3D structure"
                    status = f"no representation: {why}"
                elif embedder.inputs == "2d+3d" and not window.has_3d[place]:
                    status = "; ".join(["from 2D alone: no 3D structure", *row.notes])
                yield row, None if values is None else values[0].astype("<f4"), status
            line.add(len(window.rows))


def write_npy(stream: IO[bytes], rows: Iterator[tuple[Any, Any, str]], shape: tuple[int, int]) -> int:
    """An array with a row for each row; returns how many are NaN."""
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    missing, failed = np.full(shape[1], np.nan, "<f4"), 0
    for _, values, _ in rows:
        failed += values is None
        stream.write((missing if values is None else values).tobytes())
    return failed


def write_npz(stream: IO[bytes], rows: Iterator[tuple[Any, Any, str]], width: int, level: str, out: Path) -> int:
    """Arrays `values`, `smiles`, `status`, and `starts` where a row has several; values go through a file beside, not through memory."""
    smiles, statuses, starts, failed = [], [], [0], 0
    several = level in ("atom", "distances")
    with tempfile.TemporaryFile(dir=resolved(out).parent) as spool:
        for row, values, status in rows:
            failed += values is None
            smiles.append(row.smiles)
            statuses.append(status)
            if values is None and not several:
                values = np.full(width, np.nan, "<f4")
            if values is not None:
                spool.write(values.tobytes())
            starts.append(starts[-1] + (0 if values is None else values.size // width))
        spool.flush()
        shape = (starts[-1], width)
        read = np.memmap(spool, "<f4", "r", shape=shape) if starts[-1] else np.zeros(shape, "<f4")
        arrays: dict[str, Any] = {"values": read, "smiles": np.array(smiles, dtype=np.str_), "status": np.array(statuses, dtype=np.str_)}
        if several:
            arrays["starts"] = np.array(starts)
        np.savez(stream, allow_pickle=False, **arrays)
    return failed


PLACES = {"atom": ["atom"], "distances": ["atom", "other_atom"]}
"""Level -> columns that say which atom, or pair, a line is of."""


def columns_of(columns: Any, width: int, level: str) -> tuple[list[str], list[str], list[str]]:
    """Names of columns: the input's, places of atoms, numbers; the last one is `status`."""
    places = PLACES.get(level, [])
    names = ["distance"] if level == "distances" else [f"e{i}" for i in range(width)]
    return [f"{name} (input)" if name in {*places, *names, "status"} else name for name in columns], places, names


def lines_of(values: np.ndarray | None, width: int, level: str) -> Iterator[tuple[list[int | None], np.ndarray | None]]:
    """(place, numbers) of each line of a row; one without numbers where the row has no representation."""
    if values is None:
        yield [None] * len(PLACES.get(level, [])), None
        return
    each = values.reshape(-1, width)
    atoms = max(1, int(np.sqrt(len(each)))) if level == "distances" else 1
    for number, numbers in enumerate(each):
        where: dict[str, list[int | None]] = {"atom": [number], "distances": [number // atoms, number % atoms]}
        yield where.get(level, []), numbers


def write_text(
    write_row: Callable[[Iterable[Any]], object], rows: Iterator[tuple[Any, Any, str]], columns: Any, width: int, level: str
) -> int:
    """The input's cells, numbers and a status; of atoms and pairs a line each. Returns how many rows have no numbers."""
    given, places, names = columns_of(columns, width, level)
    write_row([*given, *places, *names, "status"])
    failed = 0
    for row, values, status in rows:
        failed += values is None
        for place, numbers in lines_of(values, width, level):
            cells = [""] * width if numbers is None else [f"{value:.7g}" for value in numbers.tolist()]
            write_row([*row.cells, *("" if each is None else each for each in place), *cells, status])
    return failed


def write_parquet(stream: IO[bytes], rows: Iterator[tuple[Any, Any, str]], columns: Any, width: int, level: str) -> int:
    """The same as a Parquet file: the input's cells as text, places as int64, numbers as float32, null where there are none.

    Names that the input has twice are told apart: readers take no others.
    """
    import pyarrow
    from pyarrow import parquet

    from moleblend_fs.predictions.api import told_apart

    given, places, names = columns_of(columns, width, level)
    kinds = [pyarrow.string()] * len(given) + [pyarrow.int64()] * len(places) + [pyarrow.float32()] * width + [pyarrow.string()]
    schema = pyarrow.schema(list(zip(told_apart([*given, *places, *names, "status"]), kinds, strict=True)))
    failed = 0
    waiting: list[list[Any]] = []
    with parquet.ParquetWriter(stream, schema) as writer:

        def flush() -> None:
            arrays = [pyarrow.array(column, kind) for column, kind in zip(zip(*waiting, strict=True), kinds, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        for row, values, status in rows:
            failed += values is None
            for place, numbers in lines_of(values, width, level):
                waiting.append([*row.cells, *place, *([None] * width if numbers is None else numbers), status])
                if len(waiting) == ROW_GROUP:
                    flush()
        if waiting:
            flush()
    return failed
