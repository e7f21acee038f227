"""DATA of all formats gives the same molecules and labels; what cannot be read is told."""

import bz2
import gzip
import lzma
import re
import sqlite3
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.chem import conformer_cache
from moleblend_fs.data.record import decode
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data import opened, prepare, targets_of, unit_of
from moleblend_fs.finetune.folds import smiles_of
from moleblend_fs.finetune.settings import Settings
from tests.finetune.conftest import ESOL
from tests.sources.table_files import frame_file

ROWS = [line.rsplit(",", 1) for line in ESOL.strip().splitlines()[:12]]
SETTINGS = Settings(targets=("logS",))
MIXED = "smiles,logS,active\n" + "".join(f"{'C' * (i + 1)},{i / 7},{i % 2}\n" for i in range(20))


def content(path, folder, settings=SETTINGS):
    data = prepare(path, settings, folder, "none", workers=1, progress=False)
    labels = data.store.labels(np.arange(len(data.store)))[:, 0]
    return smiles_of(data.store), labels.tolist()


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolons", "gz", "other names"])
def test_tables_of_all_kinds(tmp_path, kind):
    expected = [smiles for smiles, _ in ROWS], [float(value) for _, value in ROWS]
    path, settings = tmp_path / "data.csv", SETTINGS
    lines = [["SMILES", "logS"], *ROWS]
    if kind == "semicolons":
        path.write_text("\n".join(f"{a};{b.replace('.', ',')}" for a, b in lines))
    elif kind == "tsv":
        path = tmp_path / "data.tsv"
        path.write_text("\n".join("\t".join(line) for line in lines))
    elif kind == "gz":
        path = tmp_path / "data.csv.gz"
        path.write_bytes(gzip.compress("\n".join(",".join(line) for line in lines).encode()))
    elif kind == "other names":
        path.write_text("\n".join(",".join(line) for line in [["what", "logS"], *ROWS]))
        settings = Settings(targets=("logS",), smiles_column="what")
    else:
        path.write_text("\n".join(",".join(line) for line in lines))
    assert content(path, tmp_path / "out", settings) == expected


@pytest.mark.parametrize("ending", ["xlsx", "parquet", "parquet.gz"])
def test_workbooks_and_parquet_files(tmp_path, ending):
    path = frame_file(tmp_path / f"data.{ending}", ["smiles", "logS"], [(a, float(b)) for a, b in ROWS])
    assert content(path, tmp_path / "out") == ([a for a, _ in ROWS], [float(b) for _, b in ROWS])


def test_messages_name_the_users_file(tmp_path):
    """Not the copy that is read."""
    path = frame_file(tmp_path / "mine.xlsx", ["smiles", "active"], [(a, i % 2) for i, (a, _) in enumerate(ROWS)])
    for target, message in (("logS", f"{path}: --target: no column 'logS'"), ("active", "--target active:classification")):
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            prepare(path, Settings(targets=(target,)), tmp_path / "out", "none", workers=1, progress=False)
        assert "data.csv" not in str(caught.value)


@pytest.mark.parametrize("ending", ["csv.xz", "csv.bz2", "csv.zip", "sdf.gz"])
def test_packed_files(tmp_path, ending):
    plain = tmp_path / "plain"
    if ending == "sdf.gz":
        with Chem.SDWriter(str(plain)) as writer:
            for smiles, value in ROWS:
                mol = Chem.MolFromSmiles(smiles)
                mol.SetProp("logS", value)
                writer.write(mol)
    else:
        plain.write_text("\n".join(",".join(line) for line in [["smiles", "logS"], *ROWS]))
    path, raw = tmp_path / f"data.{ending}", plain.read_bytes()
    if ending == "csv.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.csv", raw)
    else:
        path.write_bytes({"xz": lzma.compress, "bz2": bz2.compress, "gz": gzip.compress}[ending.rsplit(".", 1)[1]](raw))
    smiles, labels = content(path, tmp_path / "out")
    assert labels == [float(value) for _, value in ROWS]
    assert [Chem.CanonSmiles(each) for each in smiles] == [Chem.CanonSmiles(each) for each, _ in ROWS]


def test_an_sd_file_keeps_its_structures(tmp_path):
    from rdkit.Chem import AllChem

    path = tmp_path / "data.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for smiles, value in ROWS[2:6]:
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            AllChem.EmbedMolecule(mol, randomSeed=1)
            mol.SetProp("logS", value)
            writer.write(mol)
    data = prepare(path, Settings(targets=("logS",), inputs="2d+3d"), tmp_path / "out", "none", workers=1, progress=False)
    assert data.store.manifest.molecules_with_3d == 4
    assert data.store.labels([0, 1, 2, 3])[:, 0].tolist() == [float(value) for _, value in ROWS[2:6]]


def test_conformers_are_made_where_inputs_need_them(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("smiles,logS\n" + "\n".join(",".join(row) for row in ROWS[8:11]))
    with_3d = [
        prepare(path, Settings(targets=("logS",), inputs=inputs), tmp_path / inputs, "none", workers=1, progress=False).store
        for inputs in ("2d", "2d+3d")
    ]
    assert [store.manifest.molecules_with_3d for store in with_3d] == [0, 3]


def test_another_target_takes_the_conformers_of_an_earlier_run(tmp_path):
    """The cache is changed between the runs, which shows that the second one read it."""
    path, cache = tmp_path / "data.csv", tmp_path / "cache"
    path.write_text("smiles,logS,other\nCCO,1.5,2.5\nCCN,2.5,3.5\n")

    def coordinates(target: str, out: str, cache: Path | None) -> list[np.ndarray]:
        settings = Settings(targets=(target,), inputs="2d+3d")
        store = prepare(path, settings, tmp_path / out, "none", workers=1, progress=False, cache=cache).store
        return [decode(record)[1].coordinates for record in store.records(range(len(store)))]

    alone, first = coordinates("logS", "alone", None), coordinates("logS", "first", cache)
    assert all(map(np.array_equal, alone, first))
    with sqlite3.connect(cache / "conformers" / conformer_cache.FILE) as file:
        lines = file.execute("SELECT key, converged, coordinates FROM made").fetchall()
        assert len(lines) == 2
        for key, converged, content in lines:
            moved = (np.frombuffer(content, np.float32) + 1).tobytes()
            checksum = zlib.crc32(f" {converged} ".encode() + moved)
            file.execute("UPDATE made SET coordinates = ?, checksum = ? WHERE key = ?", (moved, checksum, key))
    second = coordinates("other", "second", cache)
    assert all(np.array_equal(taken, made + 1) for taken, made in zip(second, first, strict=True))
    assert all(map(np.array_equal, coordinates("other", "third", None), alone))


def test_targets_are_columns_lists_or_patterns(tmp_path):
    columns = ["NR-AR", "NR-AhR", "SR-p53", "a,b", "gap [eV]", "odd:regression"]

    def found(*asked, kind=""):
        return [(label.name, label.kind, label.unit) for label in targets_of(asked, kind, columns, tmp_path)]

    assert found("NR-*", "SR-p53:classification") == [("NR-AR", "", ""), ("NR-AhR", "", ""), ("SR-p53", "classification", "")]
    assert found("NR-AR,SR-p53", kind="classification") == [("NR-AR", "classification", ""), ("SR-p53", "classification", "")]
    assert found("a,b") == [("a,b", "", "")]
    assert found("gap [eV]") == [("gap [eV]", "", "eV")]
    assert found("gap [eV]:regression:meV") == [("gap [eV]", "regression", "meV")]
    assert found("odd:regression") == [("odd:regression", "", "")]
    for asked, message in ((("x",), "no column 'x'; there are: NR-AR"), ((), "Name it with --target; there are: NR-AR")):
        with pytest.raises(UserError, match=message):
            found(*asked)
    assert found("NR-*", "NR-AR", "NR-AR") == [("NR-AR", "", ""), ("NR-AhR", "", "")]
    assert unit_of("logS (mol/L)") == "mol/L"
    assert unit_of("logS") == ""


@pytest.mark.parametrize("name", ["y;unit;z;w", "a|b|c|d"])
def test_separators_within_a_columns_name(tmp_path, name):
    """More of them than of commas: the column of SMILES tells which separate."""
    (tmp_path / "mine.csv").write_text(f"smiles,{name}\nCCO,1.5\nCC,2.5\n")
    source, *_ = opened(tmp_path / "mine.csv", Settings(targets=(name,)), tmp_path, "none")
    assert [label.name for label in source.labels] == [name]
    assert [source.parse(row).labels.tolist() for _, row in source.rows(0)] == [[1.5], [2.5]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"targets": ("logs",)}, "no column 'logs'; there are: .*; names are case-sensitive: 'logS'\\?"),
        ({"targets": ("l\u00f6s",)}, r"'lo\\u0308s' is written with other characters that look alike"),
        ({"targets": ("log P",)}, r"'log\\xa0P' is written with other characters that look alike"),
        ({"targets": ("logS",), "split": "column", "split_column": "logS"}, "'logS' is given as --target and as --split-column"),
        ({"targets": ("logS",), "split": "column", "split_column": "smiles"}, "--split-column smiles: that is the column of SMILES"),
    ],
)
def test_columns_that_are_called_nearly_so_or_are_taken(tmp_path, asked, message):
    (tmp_path / "mine.csv").write_text("smiles,logS,lo\u0308s,log\u00a0P\nCCO,1.5,1.5,2\nCC,2.5,2,3\n")
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "mine.csv", Settings(**asked), tmp_path, "none")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.smi", "CCO ethanol\nCCN\n", "has no values to learn from"),
        ("table.csv", "structureless,logS\nCCO,1\n", "Name it with --smiles-column; there are: structureless, logS"),
        (
            "mixed.csv",
            "smiles,logS,active\n" + "".join(f"{'C' * (i + 1)},{i / 7},{i % 2}\n" for i in range(20)),
            "all quantities or all classes",
        ),
    ],
)
def test_what_cannot_be_learned_is_told(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    targets = ("logS", "active:classification") if "active" in text else ("logS",)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / name, Settings(targets=targets), tmp_path / "out", "none", workers=1, progress=False)
