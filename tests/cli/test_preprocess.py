"""`moleblend preprocess` from the command line: stores of every source, and messages for bad input."""

import gzip

import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store


def run(*words):
    return main(["preprocess", *map(str, words), "--no-progress", "--workers", "1"])


def test_qm9_sample(qm9_sample, tmp_path, capsys):
    assert run("qm9", qm9_sample, tmp_path / "s", "--limit", 300, "--hydrogens", "none") == 0
    store = Store(tmp_path / "s")
    assert len(store) == 300
    assert store.num_atoms.max() <= 9
    assert store.manifest.options == {"hydrogens": "none", "limit": 300}
    assert {name: info.molecules for name, info in store.manifest.splits.items()} == {"train": 252, "valid": 23, "test": 25}
    out = capsys.readouterr().out
    for text in ("300 molecules", "with 3D   300", "failures  0", "bytes each", "train 252, valid 23, test 25 (random)"):
        assert text in out


def test_a_store_of_one_molecule_reads_right(tmp_path, capsys):
    (tmp_path / "a.smi").write_text("CCO\n")
    assert run("smiles", tmp_path / "a.smi", tmp_path / "s", "--split", "none", "--conformers", 1) == 0
    out = capsys.readouterr().out
    for text in (
        ": 1 molecule in ",
        "with 3D   1 molecule, 1 conformer, of them minima of the force field 1\n",
        "rows      1 row read = 1 stored",
    ):
        assert text in out


def test_moleculenet_split_options_are_recorded(shared, tmp_path):
    path = shared / "data" / "moleculenet" / "freesolv.csv.gz"
    hashes = []
    for i, words in enumerate(([], ["--no-split-chirality"], ["--split", "random", "--split-seed", "3"])):
        assert run("moleculenet", path, tmp_path / str(i), *words) == 0
        manifest = Store(tmp_path / str(i)).manifest
        hashes.append(manifest.splits["test"].sha256)
        assert manifest.split["kind"] == ("random" if i == 2 else "scaffold")
        if i < 2:
            assert manifest.split["chirality"] == (i == 0)
    assert hashes[2] not in hashes[:2]
    assert manifest.split["seed"] == 3
    assert manifest.inputs["freesolv.csv.gz"].startswith("sha256:")


def test_pcqm4mv2(shared, tmp_path):
    assert run("pcqm4mv2", shared / "data" / "pcqm4mv2", tmp_path / "s") == 0
    manifest = Store(tmp_path / "s").manifest
    sizes = {name: info.molecules for name, info in manifest.splits.items()}
    assert sizes == {"train": 1600, "valid": 100, "test-dev": 50, "test-challenge": 50}
    assert (manifest.molecules_with_3d, manifest.failures) == (1600, 0)
    assert [s[0] is None for s in manifest.statistics.values()] == [False, False, True, True]
    assert manifest.labels[0].unit == "eV"


def test_csv_and_smiles(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("SMILES,gap,toxic,part\nCCO,1.5,1,train\nCCN,,0,test\nC1CC,1,1,train\n")
    words = ["--smiles-column", "SMILES", "--label", "gap:regression:eV", "--label", "toxic:classification", "--split-column", "part"]
    assert run("csv", table, tmp_path / "s", *words) == 0
    store = Store(tmp_path / "s")
    assert [(label.name, label.kind, label.unit) for label in store.manifest.labels] == [
        ("gap", "regression", "eV"),
        ("toxic", "classification", ""),
    ]
    assert (store.split("train").tolist(), store.split("test").tolist(), store.manifest.failures) == ([0], [1], 1)
    (tmp_path / "a.smi").write_text("CCO a\nCCC b\n")
    assert run("smiles", tmp_path / "a.smi", tmp_path / "t", "--conformers", 2, "--split", "none") == 0
    assert Store(tmp_path / "t").manifest.conformers == 4


BAD = {  # words -> what the message must say
    "missing file": (["csv", "{tmp}/no.csv", "{tmp}/o"], "no.csv: no such file"),
    "missing label": (["csv", "{tmp}/a.csv", "{tmp}/o", "--label", "gap"], "no column 'gap'; the file has: smiles, y"),
    "missing smiles": (["csv", "{tmp}/a.csv", "{tmp}/o", "--smiles-column", "S"], "no column 'S'"),
    "out exists": (["csv", "{tmp}/a.csv", "{tmp}"], "exists already"),
    "fractions": (["csv", "{tmp}/a.csv", "{tmp}/o", "--split-fractions", "0.8,0.1,0.2"], "sum to 1"),
    "fraction words": (["csv", "{tmp}/a.csv", "{tmp}/o", "--split-fractions", "most"], "three numbers"),
    "split column": (["csv", "{tmp}/a.csv", "{tmp}/o", "--split", "prescribed"], "--split-column"),
    "kind": (["csv", "{tmp}/a.csv", "{tmp}/o", "--label", "y:eV"], "NAME:KIND"),
    "conformers": (["smiles", "{tmp}/a.smi", "{tmp}/o", "--conformers", "12"], "--conformers must be 0 to 11"),
    "no gzip": (["csv", "{tmp}/b.csv.gz", "{tmp}/o"], "damaged"),
    "qm9 folder": (["qm9", "{tmp}", "{tmp}/o"], "needs gdb9.sdf"),
    "which set": (["moleculenet", "{tmp}/a.csv", "{tmp}/o"], "Give --name"),
    "no release": (["pcqm4mv2", "{tmp}", "{tmp}/o"], "--download"),
    "no lmdb": (["unimol", "{tmp}/a.csv", "{tmp}/o"], "not an LMDB file"),
    "no sd file": (["sdf", "{tmp}/a.csv", "{tmp}/o"], "not an SD file"),
    "nothing": (["smiles", "{tmp}/bad.smi", "{tmp}/o"], "no molecule could be read"),
    "limit": (["smiles", "{tmp}/a.smi", "{tmp}/o", "--limit", "0"], "--limit"),
    "row timeout": (["smiles", "{tmp}/a.smi", "{tmp}/o", "--row-timeout", "0"], "--row-timeout must be above 0"),
    "max atoms": (["smiles", "{tmp}/a.smi", "{tmp}/o", "--max-atoms", "5000"], "--max-atoms must lie in 1 to 4096"),
    "a folder of theirs": (["smiles", "{tmp}/a.smi", "{tmp}/begun"], "no half-made store"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_with_2_and_a_message(tmp_path, capsys, case):
    (tmp_path / "a.csv").write_text("smiles,y\nCCO,1\n")
    (tmp_path / "a.smi").write_text("CCO\n")
    (tmp_path / "bad.smi").write_text("C1CC\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"smiles,y\n" * 9)[:-9])
    (tmp_path / "begun.partial" / "thesis").mkdir(parents=True)
    words, message = BAD[case]
    assert run(*(word.format(tmp=tmp_path) for word in words)) == 2
    output = capsys.readouterr()
    assert message in output.err.splitlines()[-1]
    assert output.err.splitlines()[-1].startswith("moleblend preprocess: ")
    assert not (tmp_path / "o").exists()


def test_help_of_every_source(capsys):
    for source in ("pcqm4mv2", "qm9", "moleculenet", "unimol", "csv", "sdf", "smiles"):
        with pytest.raises(SystemExit) as exit_:
            main(["preprocess", source, "--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert "OUT" in text
        assert "--workers" in text
