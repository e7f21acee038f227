"""MOSES from the package that holds it, samples of rows, and molecules of other sets left out."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.chem.overlap import MoleculeSet, overlap
from moleblend_fs.chem.skeleton import skeleton_of
from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store
from moleblend_fs.data.stored_smiles import smiles_of_store
from moleblend_fs.sources.subsets import row_hash
from tests.conftest import preprocessed

LEAD_LIKE = [f"{'C' * k}Oc1ccc({x})cc1" for k in range(1, 11) for x in ("F", "Cl", "C#N", "C(N)=O")]


@pytest.fixture
def molsets(tmp_path, monkeypatch):
    """An installed package molsets that would fail if anybody imported it."""
    table = tmp_path / "site/moses/dataset/data/train.csv.gz"
    table.parent.mkdir(parents=True)
    table.write_bytes(gzip.compress("\n".join(["SMILES", *LEAD_LIKE, ""]).encode()))
    (tmp_path / "site/moses/__init__.py").write_text("raise RuntimeError('imported')\n")
    about = tmp_path / "site/molsets-0.3.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: molsets\nVersion: 0.3.1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return table


def stored(store):
    return [smiles for _, smiles in smiles_of_store(store)]


def test_moses_from_its_package(molsets, tmp_path):
    store = preprocessed(tmp_path / "store", "moses", "molsets", "--conformers", "1", "--limit", "8")
    assert stored(store) == LEAD_LIKE[:8]
    assert (store.manifest.source, store.manifest.molecules_with_3d) == ("moses", 8)
    alone = preprocessed(tmp_path / "alone", "moses", str(molsets))
    assert stored(alone) == LEAD_LIKE
    assert alone.manifest.splits.keys() == {"train", "valid", "test"}


def test_moses_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.metadata.MetadataPathFinder.find_distributions", lambda *_, **__: iter(()))
    assert main(["preprocess", "moses", "molsets", str(tmp_path / "out")]) == 2
    assert "pip install --no-deps molsets" in capsys.readouterr().err


def test_samples_are_drawn_by_hash(molsets, tmp_path):
    small, large, other, share = (
        preprocessed(tmp_path / name, "moses", str(molsets), *words)
        for name, words in (
            ("small", ["--sample", "10"]),
            ("large", ["--sample", "25"]),
            ("other", ["--sample", "10", "--sample-seed", "1"]),
            ("share", ["--sample", "0.5"]),
        )
    )
    assert len(small) == 10
    assert set(stored(small)) < set(stored(large))
    assert set(stored(small)) != set(stored(other))
    assert small.source_row.tolist() == np.sort(np.argsort(row_hash(np.arange(40), 0))[:10]).tolist()
    assert small.manifest.rows.left_out["not in the sample"] == 30
    assert small.manifest.rows.read == 40
    assert set(share.source_row.tolist()) == set(np.flatnonzero(row_hash(np.arange(40), 0) < 2**63).tolist())


def test_a_hash_of_rows_is_even():
    hashed = row_hash(np.arange(100_000), 3)
    assert len(np.unique(hashed)) == 100_000
    counts = np.histogram((hashed >> np.uint64(11)) / 2**53, bins=10, range=(0, 1))[0]
    assert abs(counts - 10_000).max() < 500  # five standard deviations are 474


def test_a_sample_is_the_same_in_shards_and_after_a_stop(molsets, tmp_path, monkeypatch):
    whole = preprocessed(tmp_path / "whole", "moses", str(molsets), "--sample", "20")
    for shard in ("0/2", "1/2"):
        words = ["preprocess", "moses", str(molsets), str(tmp_path / "parts"), "--sample", "20", "--shard", shard, "--no-progress"]
        assert main([*words, "--workers", "1"]) == 0
    assert main(["merge", str(tmp_path / "parts")]) == 0
    merged = Store(tmp_path / "parts").manifest
    assert (merged.records_sha256, merged.rows) == (whole.manifest.records_sha256, whole.manifest.rows)


@pytest.mark.parametrize("words", [["0"], ["1.5"], ["nan"], ["x"], ["41"]])
def test_samples_that_cannot_be(molsets, tmp_path, words, capsys):
    assert main(["preprocess", "moses", str(molsets), str(tmp_path / "out"), "--sample", *words]) == 2
    assert "--sample" in capsys.readouterr().err


def test_a_number_of_rows_must_be_of_rows_that_are_known(tmp_path, capsys):
    (tmp_path / "a.smi").write_text("CCO\nCC\nCCC\n")
    assert main(["preprocess", "smiles", str(tmp_path / "a.smi"), str(tmp_path / "out"), "--sample", "2"]) == 2
    assert "give a share" in capsys.readouterr().err


def others(tmp_path, kind) -> Path:
    """A set with lactic acid of the other hand, benzoate, and heavy toluene."""
    smiles = ["C[C@@H](O)C(=O)O", "O=C([O-])c1ccccc1", "[2H]Cc1ccccc1"]
    path = tmp_path / f"others.{kind}"
    if kind == "csv":
        path.write_text("name;SMILES;y\n" + "".join(f"x;{s};1\n" for s in smiles))
    elif kind == "smi":
        path.write_text("# list\n" + "".join(f"{s} name\n" for s in smiles))
    elif kind == "sdf":
        path.write_text("".join(Chem.MolToMolBlock(Chem.MolFromSmiles(s)) + "$$$$\n" for s in smiles))
    else:
        (tmp_path / "list.smi").write_text("\n".join(smiles))
        preprocessed(path, "smiles", str(tmp_path / "list.smi"))
    return path


@pytest.mark.parametrize("kind", ["csv", "smi", "sdf", "store"])
def test_molecules_of_other_sets_are_left_out(tmp_path, kind):
    (tmp_path / "mine.smi").write_text("C[C@H](O)C(=O)O a\nOC(=O)c1ccccc1\nCc1ccccc1\nCCO\nC1CC bad\nCCC\n")
    place = others(tmp_path, kind)
    store = preprocessed(tmp_path / "out", "smiles", str(tmp_path / "mine.smi"), "--exclude", str(place))
    assert stored(store) == ["CCO", "CCC"]
    rows = store.manifest.rows
    assert (rows.read, rows.stored, rows.failed, rows.left_out["excluded"]) == (6, 2, 1, 3)
    rows.check()
    with open(tmp_path / "out/failures.csv", newline="") as stream:
        listed = list(csv.DictReader(stream))
    assert [(line["row"], line["reason"]) for line in listed if "excluded" in line["reason"]] == [
        (row, f"excluded: its skeleton is in {place.name}") for row in "012"
    ]
    assert store.manifest.options["exclude"]["skeletons"] == 3


def test_what_cannot_be_excluded_is_told(tmp_path, capsys):
    (tmp_path / "mine.smi").write_text("CCO\n")
    for name, text in (("t.csv", "a,b\n1,2\n"), ("l.smi", "no molecule\nhere\n")):
        (tmp_path / name).write_text(text)
        given = ["preprocess", "smiles", str(tmp_path / "mine.smi"), str(tmp_path / "out"), "--exclude", str(tmp_path / name)]
        assert main(given) == 2
        assert f"--exclude {tmp_path / name}" in capsys.readouterr().err


def test_skeletons():
    assert skeleton_of("C[C@H](O)C(=O)O") == skeleton_of("C[C@@H](O)C(=O)[O-]") == "JVTAAEKCZFNVCJ"
    assert skeleton_of("CCO") != skeleton_of("COC")
    assert skeleton_of("C1CC") is None
    assert skeleton_of("*CC") not in (None, skeleton_of("CCC"))


def test_overlap_of_stores(tmp_path, capsys):
    (tmp_path / "a.smi").write_text(f"C[C@H](O)C(=O)O\nCCO\nCCCCC\n{'C' * 30}N\n")
    (tmp_path / "b.smi").write_text(f"OCC\nC[C@@H](O)C(=O)O\n{'C' * 31}N\nc1ccccc1\nc1ccccc1C\n")
    a, b = (preprocessed(tmp_path / name, "smiles", str(tmp_path / f"{name}.smi")) for name in "ab")
    capsys.readouterr()
    assert main(["overlap", str(a.path), str(b.path), "--json", str(tmp_path / "o.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "o.json").read_text())["overlap"]
    counts = [{name: row[name] for name in ("molecules", "exact", "skeleton", "near")} for row in rows]
    # Ethanol is the same; lactic acid is so but for its hand, which ECFP4 does not see; chains that differ in length have equal bits.
    assert counts == [{"molecules": 4, "exact": 1, "skeleton": 2, "near": 3}, {"molecules": 5, "exact": 1, "skeleton": 2, "near": 3}]
    assert printed[1].split()[-4:] == ["4", "1", "2", "3"]
    assert main(["overlap", str(a.path)]) == 2


def test_neighbours_are_those_of_all_pairs(shared):
    from rdkit import DataStructs

    with gzip.open(shared / "data/moleculenet/esol.csv.gz", "rt") as stream:
        smiles = [line["smiles"] for line in csv.DictReader(stream)][:400]
    first, second = MoleculeSet.of(smiles[::2]), MoleculeSet.of(smiles[1::2])
    similar = np.array([DataStructs.BulkTanimotoSimilarity(fp, second.fingerprints) for fp in first.fingerprints]) > 0.9
    one, other = overlap(first, second)
    assert (one.near, other.near) == (similar.any(axis=1).sum(), similar.any(axis=0).sum())
    assert one.near > 10
