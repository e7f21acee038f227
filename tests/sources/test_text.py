"""Text files as others write them: packing, encodings, line ends."""

import bz2
import gzip
import lzma
import zipfile

import pytest

from moleblend_fs.errors import UserError
from moleblend_fs.sources.delimited import Table
from moleblend_fs.sources.text import TextFile

TEXT = "smiles,Löslichkeit\r\nCCO,1.5\r\nCCN,-2\r\n"
ROWS = [["CCO", "1.5"], ["CCN", "-2"]]


def zipped(content: bytes, *names: str) -> bytes:
    import io

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return target.getvalue()


PACKED = {
    "a.csv.gz": gzip.compress,
    "a.csv.GZ": gzip.compress,
    "a.csvgz": gzip.compress,
    "a.csv": gzip.compress,  # a browser that unpacked the name only
    "a.XZ": lzma.compress,
    "a.csv.bz2": bz2.compress,
    "a.zip": lambda content: zipped(content, "folder/", "folder/a.csv", "__MACOSX/._a.csv", ".DS_Store"),
}


@pytest.mark.parametrize("name", PACKED)
def test_packing_is_told_from_the_content(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name](TEXT.encode()))
    table = Table(tmp_path / name, [["smiles"]])
    assert [row.cells for row in table.rows()] == ROWS
    assert ("gzip" in table.note) == (name in ("a.csv", "a.csvgz", "a.csv.GZ"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.replace("\r\n", end).encode(encoding))
    table = Table(path, [["smiles"]])
    assert table.header == ["smiles", "Löslichkeit"]
    assert [row.cells for row in table.rows()] == ROWS
    told = {"utf-16": "UTF-16", "utf-32": "UTF-32", "latin-1": "Windows-1252", "cp1252": "Windows-1252"}
    assert told.get(encoding[:6] if encoding.startswith("utf-16") else encoding, "") in table.note
    assert bool(table.note) == (not encoding.startswith("utf-8"))


def test_a_byte_order_mark_before_a_quoted_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"smiles","y"\n"CCO",1\n')
    assert Table(path, [["smiles"]]).header == ["smiles", "y"]


def test_one_wrong_byte_does_not_change_the_encoding_of_the_rest(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("smiles,Löslichkeit,größe\nCCO,1,2\n".encode() + b"CC\xffN,1,2\n")
    table = Table(path, [["smiles"]])
    assert table.header[1:] == ["Löslichkeit", "größe"]
    assert [row.cells[0] for row in table.rows()] == ["CCO", "CC\ufffdN"]
    assert "1 bytes that are not" in table.note


FOREIGN = {
    "parquet": (b"PAR1" + bytes(40), "Parquet"),
    "xlsx": (zipped(b"x", "[Content_Types].xml", "xl/workbook.xml"), "office document"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "Excel"),
    "two members": (zipped(b"smiles\nC\n", "a.csv", "b.csv"), r"ZIP archive of 2 files \(a\.csv, b\.csv\)"),
    "no member": (zipped(b""), "empty ZIP"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), "zstd -d"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html>", "web page"),
    "tar in gzip": (gzip.compress(bytes(257) + b"ustar" + bytes(200)), "tar archive"),
    "binary": (bytes(range(256)) * 20, "not a text file"),
    "other encoding": ("smiles,y\nCCO,\u0441\u0418\u044f\n".encode("cp1251").replace(b"\xf1", b"\x81"), "iconv"),
    "cut short": (gzip.compress(b"smiles\n" * 999)[:-9], "damaged or cut short"),
    "cut UTF-16": ("smiles\nCCO\n".encode("utf-16")[:-1], "damaged"),
    "empty": (b"", "empty"),
    "blank": (b"\n \r\n\t\n", "empty"),
    "one line": (b"x" * (20 << 20), "16 MB"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_text_says_what_it_is_and_what_to_do(tmp_path, case):
    content, message = FOREIGN[case]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(Table(tmp_path / "a", [["smiles"]]).rows())
    assert str(tmp_path / "a") in str(error.value)


def test_lines_are_cut_at_line_ends_alone(tmp_path):
    """Not at form feeds, vertical tabs or U+2028, where str.splitlines would."""
    path = tmp_path / "a.smi"
    path.write_bytes("CCO a\x0bb\x0cc\u2028d\x85e\nCCN\r\rCC".encode())
    assert list(TextFile(path).lines()) == ["CCO a\x0bb\x0cc\u2028d\x85e\n", "CCN\r", "\r", "CC"]
