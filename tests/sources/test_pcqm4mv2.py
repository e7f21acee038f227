"""PCQM4Mv2 in OGB's layout, on 1,800 real molecules."""

import gzip
import shutil
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
from rdkit import Chem

from moleblend_fs.data.graph import Failure
from moleblend_fs.errors import UserError
from moleblend_fs.sources.pcqm4mv2 import SPLITS, PCQM4Mv2, read_split_dict


@pytest.fixture(scope="module")
def release(shared):
    return shared / "data" / "pcqm4mv2"


def test_structures_and_splits(release):
    source = PCQM4Mv2(release)
    supplier = Chem.SDMolSupplier(str(release / "pcqm4m-v2-train.sdf"))
    counts = dict.fromkeys(SPLITS, 0)
    reordered = 0
    for row, raw in source.rows(0):
        counts[raw.split] += 1
        if row > 300 and row not in (1599, 1600, 1700, 1799):
            continue
        graph = source.parse(raw)
        assert not isinstance(graph, Failure)
        assert graph.split == raw.split
        assert np.isnan(graph.labels[0]) == raw.split.startswith("test")
        from_smiles = [atom.GetAtomicNum() - 1 for atom in Chem.MolFromSmiles(raw.smiles).GetAtoms()]
        if raw.split == "train":
            mol = supplier[row]
            np.testing.assert_allclose(graph.coordinates[0], mol.GetConformer().GetPositions(), rtol=1e-6)
            assert graph.atom_features[:, 0].tolist() == [atom.GetAtomicNum() - 1 for atom in mol.GetAtoms()]
            reordered += graph.atom_features[:, 0].tolist() != from_smiles
        else:
            assert graph.coordinates is None
            assert graph.atom_features[:, 0].tolist() == from_smiles
    assert counts == {"train": 1600, "valid": 100, "test-dev": 50, "test-challenge": 50}
    assert reordered > 100  # the order of the SD file is indeed another one


def test_resumed_rows_have_their_own_records(release):
    source = PCQM4Mv2(release)
    whole = list(source.rows(0))
    for start in (1, 777, 1599, 1600, 1799):
        assert list(source.rows(start)) == whole[start:]


@pytest.mark.parametrize("place", ["", "raw"])
def test_sd_file_may_lie_inside(release, tmp_path, place):
    shutil.copytree(release / "pcqm4m-v2", tmp_path / "pcqm4m-v2", copy_function=shutil.copyfile)
    with pytest.raises(UserError, match="no-structures"):
        PCQM4Mv2(tmp_path)
    source = PCQM4Mv2(tmp_path, structures=False)
    assert source.parse(next(source.rows(0))[1]).coordinates is None
    (tmp_path / "pcqm4m-v2" / place / "pcqm4m-v2-train.sdf").symlink_to(release / "pcqm4m-v2-train.sdf")
    for path in (tmp_path, tmp_path / "pcqm4m-v2"):
        source = PCQM4Mv2(path)
        assert source.parse(next(source.rows(0))[1]).coordinates is not None


def copy(release, folder):
    shutil.copytree(release, folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return folder


def test_shifted_records_are_caught(release, tmp_path):
    """A lost record shifts all that follow by one: compositions disagree, row by row, and the file ends too early."""
    folder = copy(release, tmp_path / "r")
    text = (folder / "pcqm4m-v2-train.sdf").read_text().split("$$$$\n")
    (folder / "pcqm4m-v2-train.sdf").write_text("$$$$\n".join(text[1:]))
    source = PCQM4Mv2(folder)
    failures = sum(isinstance(source.parse(raw), Failure) for _, raw in islice(source.rows(0), 200))
    assert failures > 180
    with pytest.raises(UserError, match="ends before training molecule 1599"):
        list(source.rows(0))


def test_damaged_releases(release, tmp_path):
    with pytest.raises(UserError, match=r"no raw/data\.csv\.gz"):
        PCQM4Mv2(tmp_path)
    folder = copy(release, tmp_path / "r")
    table = folder / "pcqm4m-v2" / "raw" / "data.csv.gz"
    lines = gzip.decompress(table.read_bytes()).split(b"\n")
    table.write_bytes(gzip.compress(b"\n".join(lines[:1000])))
    with pytest.raises(UserError, match="ends after 999 rows of 1800"):
        list(PCQM4Mv2(folder).rows(0))
    (folder / "pcqm4m-v2" / "split_dict.pt").write_bytes(b"no such thing")
    with pytest.raises(UserError, match="not OGB's split file"):
        PCQM4Mv2(folder)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_malicious_split_file_is_refused(release, tmp_path):
    folder = copy(release, tmp_path / "r")
    torch.save({"train": Attack(str(tmp_path / "owned"))}, folder / "pcqm4m-v2" / "split_dict.pt")
    with pytest.raises(UserError, match="not OGB's split file"):
        PCQM4Mv2(folder)
    assert not (tmp_path / "owned").exists()


def test_split_file_with_old_numpy_names(release, tmp_path):
    """The published file was written with NumPy 1, whose globals lie in numpy.core."""
    path = release / "pcqm4m-v2" / "split_dict.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "split_dict.pt", "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    for name, rows in read_split_dict(tmp_path / "split_dict.pt").items():
        np.testing.assert_array_equal(rows, read_split_dict(path)[name])


def test_split_file_with_tensors(tmp_path):
    splits = {name: torch.arange(3) + 3 * i for i, name in enumerate(SPLITS)}
    torch.save(splits, tmp_path / "a.pt")
    assert read_split_dict(tmp_path / "a.pt")["test-challenge"].tolist() == [9, 10, 11]
