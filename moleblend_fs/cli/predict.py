"""`moleblend predict`: predictions of molecules in tables, lists, SD files and stores; representations of a store's."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moleblend_fs import __version__
from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_rows_arguments,
    add_runner_arguments,
    add_split_arguments,
    check_output,
    compare_with_store,
    molecules_of,
    named_rows,
    runner,
)
from moleblend_fs.data.finetuned_for import Described
from moleblend_fs.data.split_file import open_store
from moleblend_fs.data.store import MANIFEST, Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import is_stream, whole_file
from moleblend_fs.inference.comparison import parse_allowed
from moleblend_fs.inference.predict import Runner, check_structures, loaders_told

ROW, SMILES, STATUS = "row", "smiles", "status"
STDOUT = Path("/dev/stdout")
EPILOG = """examples:
  moleblend predict runs/logS new.csv                        # writes new.predictions.csv
  moleblend predict runs/logS/checkpoint_best.pt new.sdf.gz out.csv --workers 4
  moleblend predict runs/logS --smiles CCO c1ccccc1          # to standard output
  grep -v Cl list.smi | moleblend predict runs/logS - > predictions.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write a line for every row of the input, in its order: all of its columns, a column for each target, and a status. It\n"
        "is 'ok', or says that a model of inputs 2d+3d had no 3D structure to go by, or why there is no prediction. Hydrogens and\n"
        "conformers are made as for the model's training. A run that was stopped goes on where it was when the same command is\n"
        "given again. Of a folder of `moleblend finetune` there are also the members' standard deviation, an interval that holds\n"
        "the value with the probability of --interval (of classes: a calibrated probability), the similarity to the nearest\n"
        "training molecule (Tanimoto of ECFP4), and whether it is less than that of 95 % of the training molecules among each other."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "model", help="checkpoint (.pt of a training run, or a folder of `moleblend convert`), or a folder of `moleblend finetune`"
    )
    parser.add_argument(
        "input",
        nargs="?",
        help="table with a column of SMILES (commas, tabs, semicolons, Excel, Parquet), list of SMILES, SD file, each perhaps packed "
        "(.gz, .xz, .bz2, .zip); a store; or - for standard input",
    )
    parser.add_argument(
        "output",
        nargs="?",
        type=Path,
        help="CSV to write (default: INPUT.predictions.csv beside the input; standard output for - and --smiles); with --embeddings a "
        "NumPy file",
    )
    add_rows_arguments(parser)
    parser.add_argument("--interval", type=float, default=0.9, metavar="P", help="probability of intervals (default: %(default)s)")
    parser.add_argument("--no-similarity", action="store_true", help="leave out the similarity to training molecules, which takes time")
    store = parser.add_argument_group("of a store")
    store.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="the table, list of SMILES or SD file that the store was made from: its columns (names, titles) stand in each line as well",
    )
    store.add_argument("--split", help="only this split's molecules, in the store's order; the whole source by default")
    store.add_argument("--embeddings", choices=("2d", "3d", "2d+3d"), help="write graph-token representations from these inputs instead")
    add_split_arguments(store)
    add_comparison_argument(parser)
    add_runner_arguments(parser)
    parser.set_defaults(workers=None)


class Input(NamedTuple):
    """What predictions are made of, opened.

    Attributes:
        columns: its own. begin: see `writing.Begin`. request: all that its rows depend on.
        rows: how many, if that is known before reading.
        left_out: what became no row, by why, once all is read.
    """

    columns: Sequence[str]
    begin: Any
    request: dict[str, Any]
    count: Any
    left_out: Any


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    _check_arguments(arguments)
    with named_input(arguments):
        if arguments.embeddings is not None:
            return run_embeddings(arguments)
        return run_predictions(arguments)


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.smiles is not None:
        if arguments.output is not None:
            raise UserError("give either an INPUT or --smiles, not both (one more name is OUT)")
        arguments.input, arguments.output = None, None if arguments.input is None else Path(arguments.input)
    elif arguments.input is None:
        raise UserError("give an INPUT (a table, list of SMILES, SD file, store, or -), or molecules with --smiles")
    if arguments.embeddings is not None and arguments.source is not None:
        raise UserError("--source goes with predictions, --embeddings writes an array without text; leave one of them out")
    if not 0 < arguments.interval < 1:
        raise UserError(f"--interval must lie between 0 and 1, got {arguments.interval}")
    if not arguments.row_timeout > 0:
        raise UserError(f"--row-timeout must be above 0 seconds, got {arguments.row_timeout}")
    if arguments.output == Path("-"):
        arguments.output = STDOUT


@contextmanager
def named_input(arguments: argparse.Namespace) -> Iterator[None]:
    """An input that is a path, and an output; what standard input gives is kept in a temporary file meanwhile."""
    with tempfile.TemporaryDirectory(prefix="moleblend.") as folder:
        given = arguments.input
        arguments.piped = given == "-"
        if given == "-":
            arguments.input = Path(folder) / "stdin"
            with open(arguments.input, "wb") as stream:
                while block := sys.stdin.buffer.read(1 << 20):
                    stream.write(block)
        elif given is not None:
            arguments.input = Path(given)
        if arguments.output is None:
            arguments.output = STDOUT if given in (None, "-") else default_output(arguments.input)
        yield


def default_output(given: Path) -> Path:
    """Beside the input; UserError where there is a file of that name, which may be of another model."""
    name = given.name or given.resolve().name
    for suffix in (".gz", ".gzip", ".xz", ".bz2", ".zip"):
        name = name.removesuffix(suffix)
    out = given.resolve().parent / f"{Path(name).stem}.predictions.csv"
    if os.path.lexists(out):
        raise UserError(f"{out} exists already; name it as OUT to write over it, or choose another")
    return out


def is_store(path: Path) -> bool:
    """Whether an input is to be read as a store: any folder, and what only a store's message explains."""
    return path.is_dir() or (not path.exists() and path.with_name(path.name + ".partial").is_dir()) or (path / MANIFEST).is_file()


def run_predictions(arguments: argparse.Namespace) -> int:
    """Predictions of whatever input, as CSV."""
    try:
        from moleblend_fs.predictions.opening import open_model
        from moleblend_fs.predictions.table import PredictionTable
        from moleblend_fs.predictions.writing import write_table
    except ModuleNotFoundError as error:
        raise UserError(f"needs the package {error.name}: pip install 'moleblend-fs[chem]'") from error
    model = open_model(arguments.model)
    check_output(arguments.output, arguments.model, *filter(None, (arguments.input, arguments.source)))
    opened = (
        open_stored(arguments, model.described, model.about.inputs)
        if arguments.input is not None and is_store(arguments.input)
        else open_rows(arguments, model.described, model.about.inputs)
    )
    how = runner(arguments)
    domain = None if arguments.no_similarity else model.domain()
    table = PredictionTable(model, opened.columns, domain=domain, level=arguments.interval)
    request = opened.request | {"model": model.sha256(), "columns": table.header, "interval": arguments.interval}
    request |= {"device": how.device.partition(":")[0], "version": __version__}
    progress = not arguments.no_progress and not is_stream(arguments.output)
    with model.computing(how.device, how.tokens) as forward:
        write_table(
            arguments.output,
            opened.begin,
            table,
            forward,
            request,
            total=opened.count() if progress else None,
            progress=progress,
            tell=say,
        )
    left_out = [f"{count} rows of the source have no line: {why}" for why, count in opened.left_out().items() if count]
    for line in [*table.said(str(arguments.output)), *left_out]:
        say(line)
    print(f"{table.molecules} molecules: {arguments.output}", file=sys.stderr if is_stream(arguments.output) else sys.stdout)
    return 0


def say(line: str) -> None:
    """Something that a user should know, on stderr."""
    print(f"moleblend predict: {line}", file=sys.stderr)


def open_rows(arguments: argparse.Namespace, checkpoint: Described, inputs: str) -> Input:
    """A table, a list, an SD file, or SMILES of the command line."""
    from moleblend_fs.predictions.preparing import prepare
    from moleblend_fs.predictions.rows import made_of
    from moleblend_fs.sources.base import identify
    from moleblend_fs.sources.incoming import IncomingSmiles, open_incoming

    for flag in ("source", "split", "split_file", "fold"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} goes with a store, {arguments.input or '--smiles'} is none; leave it out")
    if arguments.smiles is not None:
        incoming: Any = IncomingSmiles(arguments.smiles)
    else:
        incoming = open_incoming(arguments.input, smiles_column=arguments.smiles_column, kind=arguments.format)
    for note in incoming.notes:
        say(note)
    name = "the molecules" if arguments.smiles is not None else "standard input" if arguments.piped else str(arguments.input)
    allowed = parse_allowed(arguments.allow_differences)
    for line in prepare(incoming, checkpoint, purpose="predict", inputs=inputs, hydrogens=arguments.hydrogens, allowed=allowed, name=name):
        say(line)
    workers = arguments.workers if arguments.workers is not None else (0 if arguments.smiles else min(8, os.cpu_count() or 1))

    def begin(start: int) -> Any:
        return made_of(incoming, start, workers=workers, row_timeout=arguments.row_timeout)

    inputs_of = {
        "stdin" if path.name == "stdin" else str(path): digest for path in incoming.files() for digest in identify([path]).values()
    }
    request = {"inputs": inputs_of, "options": incoming.options(), "smiles": arguments.smiles}
    return Input(incoming.columns, begin, request, incoming.count, incoming.left_out)


def open_stored(arguments: argparse.Namespace, checkpoint: Described, inputs: str) -> Input:
    """A store's molecules, with columns of its source where they are asked for."""
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
        if not whole:
            beyond = "they belong to no split; leave --split out to have them in the table"
            return {beyond: sum(1 for _ in store.failures())}
        return {} if store.manifest.rows is None else store.manifest.rows.left_out

    source = None if arguments.source is None else str(arguments.source)
    split = None if whole else store.manifest.splits[arguments.split].sha256
    request = {"inputs": {str(store.path): store.manifest.records_sha256}, "split": split, "source": source}
    return Input([ROW, SMILES, *names], begin, request, lambda: len(indices) + (store.manifest.failures if whole else 0), left_out)


def _from(start: int, parts: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """All but the first rows."""
    for part in parts:
        yield part[start:]
        start = max(0, start - len(part))


def carried(path: Path, store: Store) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The columns of the file that a store was made from."""
    from moleblend_fs.sources.carried import carried_columns

    return carried_columns(path, store.manifest)


def run_embeddings(arguments: argparse.Namespace) -> int:
    """Representations of a store's molecules."""
    if arguments.input is None or not is_store(arguments.input):
        raise UserError("--embeddings goes with a store; for tables, lists and SD files there is `moleblend embed`")
    checkpoint, store = load(arguments.model), open_store(arguments.input, arguments.split_file, arguments.fold)
    check_output(arguments.output, arguments.model, store.path)
    indices = molecules_of(store, arguments.split)
    compare_with_store(checkpoint, store, arguments, "embed", inputs=arguments.embeddings)
    arguments.workers = arguments.workers or 0
    how = runner(arguments)
    with loaders_told():
        said = write_embeddings(arguments.output, how, checkpoint, store, indices, arguments.embeddings)
    for line in said:
        say(line)
    print(f"{len(indices)} molecules: {arguments.output}", file=sys.stderr if is_stream(arguments.output) else sys.stdout)
    return 0


def write_embeddings(output: Path, how: Runner, checkpoint: Checkpoint, store: Store, indices: np.ndarray, inputs: str) -> list[str]:
    """An array in NumPy's format, written part by part; returns what is to be said of it."""
    order = np.sort(indices)  # the store's
    bad, without_3d = [np.zeros(0, np.int64)], 0
    parts = how.embeddings(checkpoint, store, order, inputs)
    with whole_file(output, "wb") as stream:
        shape = (len(order), checkpoint.config.embed_dim)
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for part in parts:
            stream.write(part.values.astype("<f4").tobytes())
            bad.append(part.rows[part.not_finite()])
            without_3d += int((~part.has_3d).sum())
        rows = np.concatenate(bad)
        if len(rows) == len(order):
            file = checkpoint.about.get("file")
            raise UserError(f"{file}: the representation is not finite for any of {len(order)} molecules; nothing was written")
    said = [f"the representation is not finite for {named_rows(rows)}"] if len(rows) else []
    if without_3d and inputs == "2d+3d":
        said.append(f"{without_3d} of {len(order)} molecules have no 3D structure: their representations are from 2D alone")
    if store.manifest.failures:
        said.append(
            f"line i of the array is row source_row[i] of the source; rows that gave no molecule are listed in {store.path}/failures.csv"
        )
    return said
