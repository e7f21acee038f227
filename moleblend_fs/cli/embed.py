"""`moleblend embed`: representations of molecules in tables, lists, SD files, stores and SMILES."""

import argparse
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moleblend_fs.cli import embedding_files
from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_rows_arguments,
    add_runner_arguments,
    add_split_arguments,
    check_output,
    check_runner,
    say,
    say_precision,
    say_written,
)
from moleblend_fs.cli.given_molecules import check_given, is_store, named_input, open_given
from moleblend_fs.data.model_description import INPUTS
from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, delimiter_of, whole_file
from moleblend_fs.inference.checkpoint_fit import parse_allowed
from moleblend_fs.wording import counted, verb

if TYPE_CHECKING:
    from moleblend_fs.predictions.streaming import Window

ENDINGS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
TEXT = (".csv", ".tsv")
OF_STORES = ("source", "split", "split_file", "fold")
EPILOG = """examples:
  moleblend embed runs/pretrain/checkpoint_best.pt new.csv new.npy                 # graph tokens, a row for each row
  moleblend embed runs/pretrain/checkpoint_best.pt new.sdf atoms.npz --level atom  # values[starts[i]:starts[i + 1]] are row i's atoms
  moleblend embed runs/pretrain/checkpoint_best.pt out.csv --smiles CCO c1ccccc1 --level mean --layer 3
  moleblend embed runs/pretrain/checkpoint_best.pt runs/data/bbbp test.npz --split test   # a store: `row` has the rows of its source
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write representations of molecules: the graph token's, the mean of the atoms', or each atom's. Every row of the input has its\n"
        "row; where it gives no molecule, numbers are NaN (.npy, .npz) or empty, and the status of all but .npy says why.\n"
        "Files: .npy, an array (rows, width), float32. .npz, arrays values, smiles, status, row of a store, and of atoms starts: row i's\n"
        "atoms are values[starts[i]:starts[i + 1]], in the order of its SMILES or record, hydrogens that were added last. .csv or .tsv,\n"
        "the input's columns and e0, e1, ...; of atoms a line for each atom; packed as .csv.gz, .csv.xz, .csv.bz2. .parquet,\n"
        "the same columns, numbers float32 (needs pyarrow)."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        help="checkpoint, pretrained or finetuned, folder of `moleblend finetune`, file of `moleblend export`, or "
        "name of published weights",
    )
    parser.add_argument("input", nargs="?", help="table with a column of SMILES, list of SMILES, SD file, perhaps packed; a store; or -")
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
    store = parser.add_argument_group("of a store")
    store.add_argument(
        "--source", type=Path, metavar="FILE", help="the file that the store was made from: its columns stand in a table, too"
    )
    store.add_argument("--split", help="only this split's molecules, in the store's order; all rows of the source by default")
    add_split_arguments(store)
    add_comparison_argument(parser)
    add_runner_arguments(parser, rows=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    check_given(arguments, "a table, list of SMILES, SD file, store, or -")
    if arguments.output is None:
        raise UserError(f"give OUT, a file to write, ending in {', '.join(ENDINGS)}")
    ending = ending_of(arguments.output)
    if ending not in ENDINGS:
        raise UserError(
            f"{arguments.output}: the name must end in {', '.join(ENDINGS)}, which says what is written; tables may be packed, .csv.gz"
        )
    if ending == ".npy" and arguments.level in ("atom", "distances"):
        raise UserError(f"--level {arguments.level} gives as many numbers as a molecule has atoms; write .npz, .csv or .parquet")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{arguments.output}: writing Parquet needs pyarrow: pip install pyarrow, or write .csv or .npz")
    with named_input(arguments):
        return write(arguments, ending)


def ending_of(output: Path) -> str:
    """What a name says is written: .csv of x.csv and of x.csv.gz."""
    packed = output.suffix.lower() in embedding_files.PACKED and Path(output.stem).suffix.lower() in TEXT
    return Path(output.stem if packed else output.name).suffix.lower()


class Source(NamedTuple):
    """What representations are made of.

    Attributes:
        columns: of the input. total: rows. windows: these with what was read off. of_store: whether their first cells are rows of a source.
    """

    columns: Sequence[str]
    total: int
    windows: "Iterator[Window]"
    of_store: bool = False


def write(arguments: argparse.Namespace, ending: str) -> int:
    """Compute and write."""
    from moleblend_fs.predictions.embedder import Embedder

    check_output(arguments.output, arguments.model, arguments.input, arguments.source, arguments.split_file)
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
    with embedder:
        source = opened(arguments, embedder)
        failed, cut = written(arguments.output, ending, source, embedder, arguments.level, progress=not arguments.no_progress)
    if failed:
        say(arguments, f"no representation of {failed:,} of {counted(source.total, 'row')}")
    if cut:
        texts = f"{counted(cut, 'text')} {verb(cut, 'is', 'are')} too long for an array of {source.total:,}"
        say(arguments, f"{texts} and cut, ending in three dots; .csv and .parquet have all whole")
    say_written(arguments.output, source.total, "row")
    return 0


def opened(arguments: argparse.Namespace, embedder: Any) -> Source:
    """Rows of a store, or of anything else that holds molecules."""
    if arguments.input is not None and is_store(arguments.input):
        from moleblend_fs.cli.store_embeddings import open_rows_of_store

        rows = open_rows_of_store(arguments, embedder.model.described, embedder.inputs)
        return Source(rows.columns, rows.total(), embedder.read_off(rows.begin(0), arguments.level), of_store=True)
    if given := [flag for flag in OF_STORES if getattr(arguments, flag)]:
        raise UserError(f"--{given[0].replace('_', '-')} goes with a store, {arguments.input or '--smiles'} is none; leave it out")
    incoming = open_given(arguments)
    return Source(incoming.columns, incoming.count(), embedder.windows(incoming, arguments.level))


def written(output: Path, ending: str, source: Source, embedder: Any, level: str, *, progress: bool) -> tuple[int, int]:
    """Write the file that the ending says; returns (rows without numbers, texts that were cut)."""
    width = 1 if level == "distances" else embedder.width  # numbers of a molecule, atom or pair
    rows = embedded_rows(embedder.inputs, source, progress=progress)
    if ending in TEXT:
        with embedding_files.whole_text(output) as text:
            table = CsvWriter(text, delimiter=delimiter_of(output))
            return embedding_files.write_text(table.writerow, rows, source.columns, width, level), 0
    with whole_file(output, "wb") as stream:
        if ending == ".parquet":
            return embedding_files.write_parquet(stream, rows, source.columns, width, level), 0
        if ending == ".npy":
            return embedding_files.write_npy(stream, rows, (source.total, width)), 0
        return embedding_files.write_npz(stream, rows, width, level, output, of_store=source.of_store)


def embedded_rows(inputs: str, source: Source, *, progress: bool) -> Iterator[tuple[Any, Any, str]]:
    """(row, float32 values or None, status) of every row, with a bar."""
    from moleblend_fs.predictions.progress import RowProgress

    with RowProgress(source.total, shown=progress) as line:
        for window in source.windows:
            for place, row in enumerate(window.rows):
                values = window.values[place]
                status = "; ".join(["ok", *row.notes])
                if row.record is None:
                    status = f"no molecule: {row.reason}"
                elif values is None:
                    why = "not enough memory" if place in window.too_large else "no 3D structure"
                    status = f"no representation: {why}"
                elif not np.isfinite(values).all():
                    values, status = None, "no representation: the model's output is not finite"
                elif inputs == "2d+3d" and not window.has_3d[place]:
                    status = "; ".join(["from 2D alone: no 3D structure", *row.notes])
                yield row, None if values is None else values[0].astype("<f4"), status
            line.add(len(window.rows))
