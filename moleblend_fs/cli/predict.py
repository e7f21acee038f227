"""`moleblend predict`: predictions or representations of the molecules of a store."""

import argparse
import csv
import io
from pathlib import Path

import numpy as np

from moleblend_fs.cli.common import add_runner_arguments, runner
from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from moleblend_fs.files import write_atomically
from moleblend_fs.inference.checkpoint import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("checkpoint", help="checkpoint: a .pt of fairseq-train, or a folder of `moleblend convert`")
    parser.add_argument("store", help="store made by `moleblend preprocess`, of your own molecules say")
    parser.add_argument("output", type=Path, help="CSV to write; with --embeddings a .npy of shape (molecules, width)")
    parser.add_argument("--split", help="only this split; the whole store by default")
    parser.add_argument("--embeddings", choices=("2d", "3d", "2d+3d"), help="write graph-token representations from these inputs instead")
    add_runner_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    checkpoint = load(arguments.checkpoint)
    store = Store(arguments.store)
    indices = np.arange(len(store)) if arguments.split is None else np.asarray(store.split(arguments.split))
    if arguments.embeddings is not None:
        values = runner(arguments).embeddings(checkpoint, store, indices, arguments.embeddings)
        np.save(arguments.output, values, allow_pickle=False)
    else:
        values = runner(arguments).properties(checkpoint, store, indices)
        about = checkpoint.finetuned
        assert about is not None
        is_class = [kind == "classification" for kind in about.kinds]
        values = np.where(is_class, 1 / (1 + np.exp(-values)), values)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["row", "smiles", *about.targets])
        for record, row in zip(store.records(indices), values.tolist(), strict=True):
            molecule_id, graph = decode(record)
            table.writerow([molecule_id, graph.smiles, *(f"{value:.7g}" for value in row)])
        write_atomically(arguments.output, text.getvalue())
    print(f"{len(indices)} molecules: {arguments.output}")
    return 0
