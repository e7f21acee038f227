"""Workbooks and Parquet files become the text that a CSV of them would be; what cannot be read is told."""

import csv
import datetime
import re
import shutil
import sys
import zipfile

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import identify
from moleblend_fs.sources.excel_parquet import as_text, frame_kind
from moleblend_fs.sources.molecules_to_predict import open_incoming
from tests.inference.untrained_models import untrained
from tests.sources.table_files import frame_file

HEADER = ["id", "smiles", "y"]
ROWS = [("a,b", "CCO", 0.1), ('say "x"', "bad", 2.0), (None, "c1ccccc1", 3.25)]


def cells(path, tmp_path):
    copy, note = as_text(path, tmp_path / "copy.csv")
    with open(copy, newline="") as stream:
        return list(csv.reader(stream)), note


@pytest.mark.parametrize("ending", ["xlsx", "parquet", "xlsx.gz", "parquet.zip"])
def test_cells_are_those_of_the_table(tmp_path, ending):
    path = frame_file(tmp_path / f"in.{ending}", HEADER, ROWS)
    rows, note = cells(path, tmp_path)
    assert [row[:2] for row in rows] == [HEADER[:2], ["a,b", "CCO"], ['say "x"', "bad"], ["", "c1ccccc1"]]
    assert [float(row[2]) for row in rows[1:]] == [0.1, 2.0, 3.25]
    assert note == ""
    lying = tmp_path / "in.txt"
    shutil.copy(path, lying)
    assert cells(lying, tmp_path) == (rows, "")
    assert not list(tmp_path.glob("*.unpacked"))


def test_a_plain_table_is_read_as_it_is(tmp_path):
    path = tmp_path / "in.xlsx"
    path.write_text("smiles,y\nCCO,1\n")
    assert as_text(path, tmp_path / "copy.csv") == (path, "")
    assert not (tmp_path / "copy.csv").exists()


def test_cells_beyond_the_size_that_a_workbook_says_it_has(tmp_path):
    """Other programs write any size; openpyxl's reading of rows stops at it."""
    whole, lying = frame_file(tmp_path / "whole.xlsx", HEADER, ROWS), tmp_path / "in.xlsx"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(lying, "w") as other:
        for name in archive.namelist():
            content, changed = archive.read(name), re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:B2"', archive.read(name))
            assert (content != changed) == name.startswith("xl/worksheets/sheet")
            other.writestr(name, changed)
    assert cells(lying, tmp_path) == cells(whole, tmp_path)


def test_line_ends_of_any_kind_within_a_cell(tmp_path, capsys):
    """Rows in are rows out: a bare carriage return is no end of a row."""
    notes = ["a\rb", "c\r\nd", "e\nf", "\r"]
    path = frame_file(tmp_path / "in.parquet", ["smiles", "note"], [("CCO", note) for note in notes])
    model = untrained(tmp_path / "model", width=64)
    assert main(["predict", str(model), str(path), str(tmp_path / "out.csv")]) == 0
    with open(tmp_path / "out.csv", newline="") as stream:
        assert [row["note"] for row in csv.DictReader(stream)] == notes


def test_molblocks_in_cells_make_no_sd_file(tmp_path):
    """ChEMBL's table of structures has a column of them before the SMILES."""
    rows = [(f"m{i}", Chem.MolToMolBlock(Chem.MolFromSmiles(text)), text) for i, text in enumerate(("CCO", "c1ccccc1", "CCN"))]
    with open(tmp_path / "in.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["id", "molfile", "canonical_smiles"], *rows])
    for path in (tmp_path / "in.csv", frame_file(tmp_path / "in.parquet", ["id", "molfile", "canonical_smiles"], rows)):
        incoming = open_incoming(path)
        assert incoming.columns == ["id", "molfile", "canonical_smiles"]
        assert incoming.count() == 3
    nameless = frame_file(tmp_path / "nameless.parquet", ["id", "molfile"], [row[:2] for row in rows])
    with pytest.raises(UserError, match="no column is called smiles"):
        open_incoming(nameless)
    (tmp_path / "in.sdf").write_text("".join(f"{block}$$$$\n" for _, block, _ in rows))
    assert open_incoming(tmp_path / "in.sdf").count() == 3


def test_an_archive_packed_in_another_way_is_told(tmp_path):
    """Deflate64 is what Windows packs large files by."""
    path = tmp_path / "in.csv.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.csv", "smiles\nCCO\n")
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.index(mark) + place
        content[at : at + 2] = (9).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="a ZIP archive packed by a method that Python cannot read; unpack it"):
        open_incoming(path)


def test_odd_cells_of_a_workbook(tmp_path):
    """The first sheet with cells is read, from its first row with cells; a formula without a value is not taken for an empty cell."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("data")
    book.create_sheet("notes").append(["n"])
    sheet.append([])
    sheet.append(["smiles", "y", "when"])
    sheet.append(["CCO", 0.1234567890123456, datetime.datetime(2026, 1, 2, 3, 4)])
    sheet.append([])
    sheet.append(["CCN", "=B3*2", True])
    for day in (datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2), datetime.time(3, 4)):
        sheet.append(["CCN", 1, day])
    sheet.append(["CCC", None, None, None, "beyond"])
    sheet["H2"].font = openpyxl.styles.Font(bold=True)
    book.save(tmp_path / "in.xlsx")
    rows, note = cells(tmp_path / "in.xlsx", tmp_path)
    assert rows == [
        ["smiles", "y", "when"],
        ["CCO", "0.1234567890123456", "2026-01-02 03:04:00"],
        [],
        ["CCN", "=B3*2", "True"],
        ["CCN", "1", "2026-01-02"],
        ["CCN", "1", "2026-01-02 00:00:00"],
        ["CCN", "1", "03:04:00"],
        ["CCC", "", "", "", "beyond"],
    ]
    assert note.endswith("sheet 'data' is read; others are 'notes'")


def test_numbers_of_parquet_keep_their_own_digits(tmp_path):
    """A float32 is not written with the digits of the double that is nearest; null and NaN are both no value."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "f": pyarrow.array(np.float32([0.1, np.nan])),
            "d": pyarrow.array([0.1 + 0.2, None]),
            "i": [1, 2**60],
            "c": pyarrow.array(["x", None]).dictionary_encode(),
            "l": [[1, 2], None],
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    rows, _ = cells(tmp_path / "in.parquet", tmp_path)
    assert rows == [list("fdicl"), ["0.1", "0.30000000000000004", "1", "x", "[1, 2]"], ["nan", "", str(2**60), "", ""]]


@pytest.mark.parametrize(("ending", "package"), [("xlsx", "openpyxl"), ("parquet.gz", "pyarrow")])
def test_what_to_install_is_told(tmp_path, monkeypatch, ending, package):
    path = frame_file(tmp_path / f"in.{ending}", HEADER, ROWS)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UserError, match=f"in.{ending}: an? .*; reading it needs {package}: pip install {package}, or save"):
        as_text(path, tmp_path / "copy.csv")
    assert not (tmp_path / "copy.csv").exists()


@pytest.mark.parametrize("ending", ["xlsx", "parquet"])
def test_a_damaged_file_is_told(tmp_path, ending):
    path = frame_file(tmp_path / f"in.{ending}", HEADER, ROWS * 50)
    content = bytearray(path.read_bytes())
    content[60 : len(content) // 2] = bytes(len(content) // 2 - 60)
    path.write_bytes(content)
    assert frame_kind(path) in ("excel", "parquet")
    with pytest.raises(UserError, match="cannot be read"):
        as_text(path, tmp_path / "copy.csv")
    assert not (tmp_path / "copy.csv").exists()


@pytest.mark.parametrize("ending", ["xlsx", "parquet", "parquet.gz"])
def test_predictions_are_those_of_the_same_table_as_csv(tmp_path, capsys, ending):
    model = untrained(tmp_path / "model")
    path = frame_file(tmp_path / f"in.{ending}", HEADER, ROWS)
    (tmp_path / "in.csv").write_text('id,smiles,y\n"a,b",CCO,0.1\n"say ""x""",bad,2.0\n,c1ccccc1,3.25\n')
    for given, out in ((path, "frame.csv"), (tmp_path / "in.csv", "plain.csv")):
        words = [str(given), str(tmp_path / out), "--workers", "0", "--no-progress", "--hydrogens", "none"]
        assert main(["predict", str(model), *words]) == 0
    lines = [(tmp_path / out).read_text().replace(",2.0,", ",2,") for out in ("frame.csv", "plain.csv")]
    assert lines[0] == lines[1]
    assert len(lines[0].splitlines()) == 4
    assert main(["predict", str(model), str(path), str(tmp_path / "o.csv"), "--smiles-column", "nothing"]) == 2
    assert f"{path}: no column 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["xlsx", "parquet"])
def test_a_sheet_without_a_header_is_the_file_that_was_given(tmp_path, ending):
    """By its name a stopped run is found again; the copy has another each time."""
    path = frame_file(tmp_path / f"in.{ending}", ["CCO", "first"], [("CCN", "second")])
    incoming = open_incoming(path, kind="smiles")
    assert incoming.files() == [path]
    assert [row.cells[0].split(",")[0] for row in incoming.incoming()] == ["CCO", "CCN"]


def test_the_copy_is_removed_when_nothing_reads_it_any_more(tmp_path):
    incoming = open_incoming(frame_file(tmp_path / "in.parquet", HEADER, ROWS))
    folder = incoming._table.path.parent
    assert incoming.count() == 3
    assert incoming.files() == [tmp_path / "in.parquet"]
    assert folder.is_dir()
    del incoming
    assert not folder.exists()


@pytest.mark.parametrize("ending", ["xlsx", "parquet", "xlsx.gz"])
def test_a_store_of_them_is_that_of_the_same_table_as_csv(tmp_path, ending):
    """Molecules, labels and rows; it names the file that was given, by which `predict --source` finds its columns again."""
    path = frame_file(tmp_path / f"in.{ending}", ["id", "SMILES", "y"], [(*row[:2], float(row[2])) for row in ROWS])
    (tmp_path / "plain.csv").write_text('id,smiles,y\n"a,b",CCO,0.1\n"say ""x""",bad,2.0\n,c1ccccc1,3.25\n')
    for given, out in ((path, "frame"), (tmp_path / "plain.csv", "plain")):
        assert main(["preprocess", "csv", str(given), str(tmp_path / out), "--label", "y", "--workers", "2", "--no-progress"]) == 0
    frame, plain = Store(tmp_path / "frame"), Store(tmp_path / "plain")
    assert frame.records([0, 1]) == plain.records([0, 1])
    assert [(line.row, line.input) for line in frame.failures()] == [(1, "bad")]
    assert frame.manifest.inputs == identify([path])
    model = untrained(tmp_path / "model")
    out = tmp_path / "out.csv"
    assert main(["predict", str(model), str(tmp_path / "frame"), str(out), "--source", str(path)]) == 0
    with out.open(newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == [row[0] or "" for row in ROWS]


def test_what_is_wrong_in_a_frame_is_told_of_the_file_that_was_given(tmp_path, capsys):
    path = frame_file(tmp_path / "in.parquet", HEADER, ROWS)
    for words, told in (
        (["--smiles-column", "nothing"], f"{path}: no column 'nothing'"),
        (["--label", "id"], f"{path}: "),
        (["--label", "z"], "'z'"),
    ):
        assert main(["preprocess", "csv", str(path), str(tmp_path / "store"), *words]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("ending", ["xlsx", "parquet"])
def test_molecules_of_a_frame_are_left_out(tmp_path, ending):
    path = frame_file(tmp_path / f"in.{ending}", HEADER, ROWS)
    (tmp_path / "plain.csv").write_text("smiles\nOCC\nCCN\nC1=CC=CC=C1\n")
    words = [str(tmp_path / "plain.csv"), str(tmp_path / "store"), "--exclude", str(path), "--workers", "1", "--no-progress"]
    assert main(["preprocess", "csv", *words]) == 0
    store = Store(tmp_path / "store")
    assert store.source_row.tolist() == [1]
    assert [line.row for line in store.failures()] == [0, 2]
