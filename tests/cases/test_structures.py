"""Structures that cannot be true: none of them is stored, and the row that had it is listed."""

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from tests.cases.commands import account, preprocess

STRUCTURES = [
    ("32-unimol-nan", "heavy.lmdb"),
    ("32-unimol-nan", "allh.lmdb"),
    ("32-unimol-nan", "one_nan.lmdb"),
    ("66-nan-contamination", "one_nan.lmdb"),
    ("attack", "unimol_nan_coordinates.lmdb"),
    ("attack", "v3000_1e300.sdf"),
]


@pytest.mark.parametrize(("folder", "file"), STRUCTURES)
def test_only_structures_that_can_be_true_are_stored(folder, file, shared, tmp_path):
    """22, 32, 66: finite, of the size of a molecule, no two atoms in one place; rows that lost one are listed."""
    given = shared / "cases" / folder / file
    assert preprocess(tmp_path / "store", "sdf" if file.endswith("sdf") else "unimol", given).code == 0
    store = Store(tmp_path / "store")
    told = {failure.row for failure in store.failures()}
    assert told
    for record in store.records(range(len(store))):
        _, graph = decode(record)
        for coordinates in graph.coordinates if graph.coordinates is not None else ():
            assert np.isfinite(coordinates).all()
            bonds = np.linalg.norm(coordinates[graph.bonds[:, 0]] - coordinates[graph.bonds[:, 1]], axis=1)
            assert ((bonds > 0.6) & (bonds < 3)).all()  # C-H 1.1, C-I 2.1 Angstrom; ten times as long or in bohr is out


@pytest.mark.parametrize(("file", "rows", "flat"), [("in.sdf", 3, {0, 1, 2}), ("quarter_zero.sdf", 40, set(range(0, 40, 4)))])
def test_coordinates_that_are_all_the_same_are_no_structure(file, rows, flat, shared, tmp_path):
    """22: records tagged 3D after a failed embedding are kept as 2D, with a reason."""
    assert preprocess(tmp_path / "store", "sdf", shared / "cases" / "22-all-zero-coords" / file).code == 0
    store = Store(tmp_path / "store")
    told = account(store, range(rows))
    graphs = {int(row): decode(store.record(i))[1] for i, row in enumerate(store.source_row)}
    assert {row for row, graph in graphs.items() if graph.coordinates is None} == flat
    assert set(told) == flat


def test_conformers_of_a_molecule_stay_together(shared, tmp_path):
    """25: eighteen records of three molecules, one of them in both mirror images: four molecules with all conformers, each in one split."""
    assert preprocess(tmp_path / "store", "sdf", shared / "cases" / "25-multi-conformers" / "in.sdf").code == 0
    store = Store(tmp_path / "store")
    assert (len(store), store.manifest.conformers) == (4, 18)
    keys = {
        name: {Chem.MolToInchiKey(Chem.MolFromSmiles(decode(record)[1].smiles)) for record in store.records(store.split(name))}
        for name in store.splits
    }
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())) > 1
