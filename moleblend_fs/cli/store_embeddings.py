"""`moleblend predict --embeddings`: representations of a store's molecules, as an array; and its rows for `moleblend embed`."""

import argparse
from pathlib import Path

import numpy as np

from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.cli.common import check_output, compare_with_store, molecules_of, named_rows, runner, say, say_written
from moleblend_fs.cli.given_molecules import OpenedInput, is_store, open_stored
from moleblend_fs.data.model_description import Described
from moleblend_fs.data.split_file import open_store
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file
from moleblend_fs.inference.predict import Runner, check_structures, loaders_told
from moleblend_fs.wording import counted, verb


def run_embeddings(arguments: argparse.Namespace) -> int:
    """Representations of a store's molecules."""
    if arguments.input is None or not is_store(arguments.input):
        raise UserError("--embeddings goes with a store; for tables, lists and SD files there is `moleblend embed`")
    checkpoint, store = load(arguments.model), open_store(arguments.input, arguments.split_file, arguments.fold)
    check_output(arguments.output, arguments.model, store.path, arguments.split_file)
    indices = molecules_of(store, arguments.split)
    compare_with_store(checkpoint, store, arguments, "embed", inputs=arguments.embeddings)
    arguments.workers = arguments.workers or 0
    how = runner(arguments)
    with loaders_told():
        said = write_embeddings(arguments.output, how, checkpoint, store, indices, arguments.embeddings)
    for line in [*said, *which_lines(store, arguments.split)]:
        say(arguments, line)
    say_written(arguments.output, len(indices), "molecule")
    return 0


def which_lines(store: Store, split: str | None) -> list[str]:
    """Which molecules the lines of an array are of, where they are not the rows of the source."""
    if split is not None:
        return [
            f"the array has the molecules of split {split!r} alone, in the order of {store.path}; "
            "`moleblend embed` writes .npz and tables that say which row of the source each is of"
        ]
    if store.manifest.failures:
        return [
            f"line i of the array is row source_row[i] of the source; rows that gave no molecule are listed in {store.path}/failures.csv"
        ]
    return []


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
            raise UserError(f"{file}: the representation is not finite for any of {counted(len(order), 'molecule')}; nothing was written")
    said = [f"the representation is not finite for {named_rows(rows)}"] if len(rows) else []
    if without_3d and inputs == "2d+3d":
        total = counted(len(order), "molecule")
        said.append(f"{without_3d:,} of {total} {verb(without_3d, 'has', 'have')} no 3D structure: represented from 2D alone")
    return said


def open_rows_of_store(arguments: argparse.Namespace, described: Described, inputs: str) -> OpenedInput:
    """Rows of a store's source, or the molecules of a split.

    Raises:
        UserError: there are none, or they do not fit the model.
    """
    store = open_store(arguments.input, arguments.split_file, arguments.fold)
    check_structures(store, inputs, "what is asked for has", every=False)
    return open_stored(arguments, described, inputs)
