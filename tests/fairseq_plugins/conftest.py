"""Stores for training tests."""

import numpy as np
import pytest

from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.writer import StoreWriter
from tests.model.molecules import AWKWARD, ORDINARY, OVER_200_ATOMS, graph

NAN = float("nan")


def write_store(path, molecules) -> Store:
    """A store of (smiles, has coordinates, split), with a regression label y and a class c, each missing in places."""
    rows = []
    for row, (smiles, has_3d, split) in enumerate(molecules):
        labels = [NAN if row % 5 == 3 else row % 7 - 2.5, NAN if row % 4 == 1 else float(row % 2)]
        rows.append((graph(smiles, row, coordinates=has_3d, labels=labels), split))
    return write_graphs(
        path,
        rows,
        (LabelSpec(name="y", unit="eV", kind="regression"), LabelSpec(name="c", unit="", kind="classification")),
    )


def write_labelled(path, molecules, kinds) -> Store:
    """A store of (smiles, split, labels) without coordinates, its labels named and of the kinds given."""
    rows = [(graph(smiles, row, coordinates=False, labels=labels), split) for row, (smiles, split, labels) in enumerate(molecules)]
    return write_graphs(path, rows, tuple(LabelSpec(name=name, unit="", kind=kind) for name, kind in kinds.items()))


def write_graphs(path, rows, labels, source_rows=None) -> Store:
    """A store of (graph, split), from rows 0, 1, ... of a source or those given."""
    results = []
    for row, (made, split) in zip(source_rows or range(len(rows)), rows, strict=True):
        made.split = split
        results.append((row, EncodedMolecule.from_graph(made, row)))
    with StoreWriter(path, {"in": "test"}) as writer:
        writer.add(results, next_row=results[-1][0] + 1)
        writer.finish(
            source="test",
            options={},
            inputs={},
            labels=labels,
            splitter=Splitter(kind="prescribed"),
            versions={},
        )
    return Store(path)


@pytest.fixture(scope="session")
def awkward_store(tmp_path_factory) -> Store:
    """Ordinary and awkward molecules, a third without coordinates; a batch of 4 in order of size begins with single atoms."""
    smiles = ("C", "[Na+]", "[He]", "[Fe]", *AWKWARD, OVER_200_ATOMS, *ORDINARY)
    train = [(s, i % 3 != 2, "train") for i, s in enumerate(smiles)]
    valid = [(s, i % 2 == 0, "valid") for i, s in enumerate(("N", "O", *AWKWARD, "CCO", "CCCl"))]
    test = [(s, i % 2 == 1, "test") for i, s in enumerate(("C", "CC.CC", *AWKWARD, OVER_200_ATOMS))]
    return write_store(tmp_path_factory.mktemp("stores") / "awkward", [*train, *valid, *test])


@pytest.fixture(scope="session")
def uneven_store(tmp_path_factory) -> Store:
    """27 molecules of training: at 8 a batch three whole batches and one of three; no label on many of them."""
    generator = np.random.default_rng(0)
    smiles = [*ORDINARY, *AWKWARD, "CCN", "CC", "CCCl", "c1ccncc1", "OCCO", "CC#N"]
    chosen = [smiles[i] for i in generator.integers(0, len(smiles), 27)]
    train = [(s, i % 4 != 1, "train") for i, s in enumerate(chosen)]
    valid = [(s, i % 3 != 1, "valid") for i, s in enumerate(smiles[:11])]
    return write_store(tmp_path_factory.mktemp("stores") / "uneven", [*train, *valid])
