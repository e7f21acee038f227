"""A data source is one file: CONTRIBUTING's steps, followed in a copy of the packages."""

import csv

from moleblend_fs.data.store import Store
from tests.support.package_copy import Copy

SOURCE = '''
"""Chains of carbon atoms: a file with their lengths, a line each."""

import argparse
from pathlib import Path

import numpy as np

from moleblend_fs.chem.smiles_to_graph import graph_from_smiles
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.shared_options import add_hydrogens, add_max_atoms, add_split, build_of, splitter_of


class Chains(Source):
    name = "chains"
    labels = (LabelSpec(name="length", unit="atoms", kind="regression"),)

    def __init__(self, path, build, splitter):
        self.path, self.build, self.splitter = path, build, splitter

    def files(self):
        return [self.path]

    def options(self):
        return build_options(self.build)

    def rows(self, start):
        lines = self.path.read_text().splitlines()
        yield from ((row, line) for row, line in enumerate(lines) if row >= start)

    def parse(self, raw):
        if not raw.isdecimal():
            return Failure(input=raw, reason="no length")
        return graph_from_smiles("C" * int(raw), labels=np.array([float(raw)]), options=self.build)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_hydrogens(parser, "none")
    add_max_atoms(parser)
    add_split(parser, "random", ("random", "scaffold", "none"))


COMMAND = SourceCommand(
    name="chains",
    summary="chains of carbon atoms",
    where="file with a length a line",
    add_arguments=add_arguments,
    open=lambda args: Chains(Path(args.input), build_of(args), splitter_of(args)),
)
'''


def test_a_new_source_is_one_file(tmp_path):
    copy = Copy(tmp_path / "code", {"moleblend_fs/sources/chains.py": SOURCE})
    (tmp_path / "lengths").write_text("3\nfive\n7\n12\n")
    words = ("preprocess", "chains", str(tmp_path / "lengths"), str(tmp_path / "store"), "--split", "none", "--no-progress")
    made = copy.moleblend(*words, "--workers", "2")
    assert made.returncode == 0, made.stderr
    store = Store(tmp_path / "store")
    assert store.manifest.source == "chains"
    assert store.num_atoms.tolist() == [3, 7, 12]
    assert store.source_row.tolist() == [0, 2, 3]
    (statistics,) = store.manifest.statistics["train"]
    assert (statistics.min, statistics.max) == (3, 12)
    with open(tmp_path / "store" / "failures.csv") as stream:
        assert list(csv.reader(stream))[1:] == [["1", "five", "no length"]]
    wrong = copy.moleblend(*words[:3], str(tmp_path / "again"), "--max-atoms", "0")
    assert wrong.returncode == 2
    assert "--max-atoms" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert "chains of carbon atoms" in copy.moleblend("preprocess", "--help").stdout
