"""rows read = stored + failed + left out, for every source, through the command."""

import csv
import gzip
import lzma
import pickle

import lmdb
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.cli.main import main
from moleblend_fs.data.manifest import Manifest

GOOD, BAD = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCC"], ["C1CC", "xyz"]


def csv_file(folder):
    """Five molecules, two bad SMILES, a stray quote, a bad label, a row cut short, a blank SMILES; three blank lines."""
    rows = [f"{s},{i}.5,n" for i, s in enumerate([*GOOD, *BAD])]
    rows += ['CCO,1.5,"5 inch', "CCC,high,n", "CCC,1.5", ",1.5,n"]
    (folder / "a.csv").write_text("smiles,y,note\n" + "\n\n".join(rows[:3]) + "\n" + "\n".join(rows[3:]) + "\n \n")
    return ["csv", folder / "a.csv", "--label", "y"], (5 + 2 + 4 + 3, 5, 6, 3)


def smiles_file(folder):
    (folder / "a.smi").write_text("\n".join(["# made by hand", *GOOD, "", *(f"{s} name" for s in BAD), "CCO,1"]) + "\n\n")
    return ["smiles", folder / "a.smi"], (5 + 3 + 3, 5, 3, 3)


def moleculenet_file(folder):
    lines = ["smiles,p_np", *(f"{s},{i % 2}" for i, s in enumerate(GOOD)), "", *(f"{s},1" for s in BAD), "CCO,x"]
    (folder / "bbbp.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return ["moleculenet", folder / "bbbp.csv.gz"], (5 + 3 + 1, 5, 3, 1)


def sd_block(smiles, seed=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=seed)
    return Chem.MolToMolBlock(mol)


def sd_file(folder):
    """Five molecules, a broken record, one with two values, one with a bad label; a blank end."""
    records = [f"{sd_block(s)}> <y>\n{i}.5\n\n" for i, s in enumerate(GOOD)]
    records += ["broken\n\n\nnothing\nM  END\n", f"{sd_block('CC')}> <y>\n1\n\n> <y>\n2\n\n", f"{sd_block('CCC')}> <y>\nhigh\n\n"]
    (folder / "a.sdf").write_text("$$$$\n".join(records) + "$$$$\n\n")
    return ["sdf", folder / "a.sdf", "--label", "y"], (8, 5, 3, 0)


def unimol_file(folder):
    def record(smiles):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
        return {"smi": smiles, "target": 2.5, "atoms": symbols, "coordinates": [mol.GetConformer().GetPositions().astype(np.float32)]}

    values = [*(pickle.dumps(record(s)) for s in GOOD), b"no pickle", pickle.dumps({"smi": "CCO"})]
    with lmdb.open(str(folder / "a.lmdb"), subdir=False, map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(str(number).encode(), value)
    return ["unimol", folder / "a.lmdb"], (7, 5, 2, 0)


@pytest.fixture
def qm9_rows(qm9_sample):
    with lzma.open(qm9_sample, "rt") as stream:
        return [line for line, _ in zip(csv.reader(stream), range(8), strict=False)]


def qm9_file(folder, rows):
    """Seven molecules of the sample, two of them spoiled, and blank lines between."""
    smiles, position = rows[0].index("SMILES"), rows[0].index("XYZ_Ang")
    rows[3][smiles], rows[5][position] = "CCCCCCCCC", "[[0,0,0]]"
    with open(folder / "a.csv", "w") as stream:
        for row in rows:
            csv.writer(stream, lineterminator="\n").writerow(row)
            stream.write("\n")
    return ["qm9", folder / "a.csv"], (7 + 8 - 0, 5, 2, 8)


MAKERS = {f.__name__: f for f in (csv_file, smiles_file, moleculenet_file, sd_file, unimol_file)}


def accounts(words, out, *more):
    """(read, stored, failed, left out) of a store made by the command, compared with what is in it."""
    assert main(["preprocess", *map(str, words[:2]), str(out), *map(str, words[2:]), "--no-progress", "--workers", "1", *more]) == 0
    return of_manifest(out)


def of_manifest(out):
    manifest = Manifest.load(out / "manifest.json")
    rows = manifest.rows
    assert rows.stored == manifest.molecules
    with open(out / "failures.csv", newline="") as stream:
        assert len(list(csv.reader(stream))) - 1 == manifest.failures
    return rows.read, rows.stored, rows.failed, sum(rows.left_out.values())


@pytest.mark.parametrize("name", MAKERS)
def test_every_row_is_somewhere(name, tmp_path, capsys):
    words, expected = MAKERS[name](tmp_path)
    assert expected[0] == sum(expected[1:])
    assert accounts(words, tmp_path / "s") == expected
    assert f"rows      {expected[0]} rows read = {expected[1]} stored + {expected[2]} failed" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "s")]) == 0
    assert f"{expected[0]} rows read = " in capsys.readouterr().out


def test_qm9(qm9_rows, tmp_path):
    words, expected = qm9_file(tmp_path, qm9_rows)
    assert accounts(words, tmp_path / "s") == expected


def test_pcqm4mv2(shared, tmp_path):
    assert accounts(["pcqm4mv2", shared / "data" / "pcqm4mv2", "--no-structures"], tmp_path / "s", "--limit", "40") == (40, 40, 0, 0)


def test_shards_and_their_merge(tmp_path):
    words, expected = csv_file(tmp_path)
    for index in range(2):
        assert main(["preprocess", *map(str, words[:2]), str(tmp_path / "s"), *words[2:], "--no-progress", "--shard", f"{index}/2"]) == 0
    assert main(["merge", str(tmp_path / "s")]) == 0
    assert of_manifest(tmp_path / "s") == expected


def test_shards_made_from_another_path_to_the_same_file_are_one_store(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("smiles;y\nCCO;1.5\nCCN;2.5\n")
    monkeypatch.chdir(tmp_path)
    for index, path in enumerate(("a.csv", str(tmp_path / "a.csv"))):
        assert main(["preprocess", "csv", path, "s", "--label", "y", "--no-progress", "--shard", f"{index}/2"]) == 0
    assert main(["merge", "s"]) == 0
    assert of_manifest(tmp_path / "s") == (2, 2, 0, 0)
    assert "semicolons" in Manifest.load(tmp_path / "s" / "manifest.json").notes[0]


def test_repeats_and_contradictions_are_told_by_preprocess_manifest_and_inspect(tmp_path, capsys):
    lines = ["smiles,y,active,part", "CCO,1.5,1,train", "OCC,2.5,0,test", "[CH3:1]CO,1.5,1,train", "CCN,1.5,1,train", "CCC,0.5,0,test"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    labels = ["--label", "y:regression", "--label", "active:classification", "--split-column", "part"]
    assert accounts(["csv", tmp_path / "a.csv", *labels], tmp_path / "s") == (5, 5, 0, 0)
    found = Manifest.load(tmp_path / "s" / "manifest.json").duplicates
    assert (found.molecules, found.different, found.shared) == (3, 1, {"test in train": 1})
    assert found.disagreeing == {"y": (1, 1.0), "active": (1, 1.0)}
    said = "3 molecules are 1 molecule repeated; 1 of test in train; different values of y 1 (by up to 1), active 1 (by up to 1)"
    assert said in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "s")]) == 0
    assert said in capsys.readouterr().out


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path):
    from moleblend_fs.chem.smiles_to_graph import BuildOptions
    from moleblend_fs.data.splits import Splitter
    from moleblend_fs.errors import UserError
    from moleblend_fs.sources.csv_and_smiles import CsvSource

    path = tmp_path / "a.csv"
    path.write_text("smiles\nCCO\nCCN\n")
    source = CsvSource(path, smiles_column="smiles", labels=[], build=BuildOptions(), splitter=Splitter(kind="none"))
    path.write_text("smiles\nCCO\n")
    with pytest.raises(UserError, match="changed meanwhile"):
        list(source.rows(0))
