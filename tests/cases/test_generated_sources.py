"""Files of the kinds that people have, made here: the right labels from every way of writing a table, each bad row alone listed, and files
with random damage read or refused, with every row accounted for."""

import bz2
import gzip
import lzma
import math
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from tests.cases.commands import account, moleblend, preprocess
from tests.sources.test_unimol_lmdb import record, write

GOOD = [
    ("CCO", -0.77),
    ("CCN", 1.25),
    ("CCC", -1.5),
    ("CCCl", 0.5),
    ("CCBr", 2.0),
    ("c1ccccc1", 2.13),
    ("Oc1ccccc1", 1.46),
    ("CC(=O)O", -0.17),
]
TABLE = "smiles,note,logS\n" + "".join(f"{smiles},über,{value}\n" for smiles, value in GOOD)


def changed(old: str, new: str) -> bytes:
    return TABLE.replace(old, new).encode()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("table.csv", TABLE)


FORMS = {
    "plain.csv": TABLE.encode(),
    "bom.csv": b"\xef\xbb\xbf" + TABLE.encode(),
    "bom_quoted.csv": b"\xef\xbb\xbf" + b'"smiles","note","logS"\n' + TABLE.split("\n", 1)[1].encode(),
    "crlf.csv": changed("\n", "\r\n"),
    "cr.csv": changed("\n", "\r"),
    "utf16.csv": TABLE.encode("utf-16"),
    "utf16be.csv": b"\xfe\xff" + TABLE.encode("utf-16-be"),
    "latin1.csv": TABLE.encode("latin-1"),
    "tabs.tsv": changed(",", "\t"),
    "tabs.csv": changed(",", "\t"),
    "semicolons.csv": changed(",", ";"),
    "decimal_commas.csv": TABLE.replace(",", ";").replace(".", ",").encode(),
    "quoted.csv": "".join(",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in TABLE.splitlines()).encode(),
    "newline_in_cell.csv": changed("über", '"a\nb, ""c"""'),
    "blank_lines.csv": changed("\n", "\n\n"),
    "no_last_newline.csv": TABLE.rstrip("\n").encode(),
    "big_cell.csv": TABLE.replace("über", "x" * 200_000, 1).encode(),
    "a.csv.gz": gzip.compress(TABLE.encode()),
    "A.CSV.GZ": gzip.compress(TABLE.encode()),
    "a.csv.xz": lzma.compress(TABLE.encode()),
    "a.csv.bz2": bz2.compress(TABLE.encode()),
}
"""Name of a file -> the same table in another form."""


def stored(store: Store) -> dict[int, tuple[str, float]]:
    """Row -> SMILES and label."""
    labels = store.labels(range(len(store)))[:, 0]
    smiles = [decode(entry)[1].smiles for entry in store.records(range(len(store)))]
    return {int(row): (text, float(label)) for row, text, label in zip(store.source_row, smiles, labels, strict=True)}


@pytest.mark.parametrize("name", [*FORMS, "a.zip"])
def test_a_table_in_any_form_has_the_same_molecules_and_labels(name, tmp_path):
    if name == "a.zip":
        zipped(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(FORMS[name])
    done = preprocess(tmp_path / "store", "csv", tmp_path / name, "--label", "logS")
    assert done.code == 0, done.said
    store = Store(tmp_path / "store")
    assert account(store, store.source_row.tolist()) == {}
    assert [molecule for _, molecule in sorted(stored(store).items())] == GOOD


BAD = {
    ",1": "no SMILES",
    "nonsense,1": "",
    "C1CC,1": "unclosed ring",
    "CCO CCN,1": "blank",
    "CN(C)(C)C,1": "valence",
    "CC)C\u2013,1": "",
    "C" * 5000 + ",1": "5000",
    "CCO,abc": "'abc'",
    "CCO,1_5": "'1_5'",
    "CCO,0x1A": "'0x1A'",
    "CCO,١٢": "'١٢'",
    "CCO,>5": "bound",
    'CCO,"1,5"': "decimal point",
    "CCO,inf": "infinite",
    "CCO,1e400": "1e400",
    "CCO,True": "'True'",
}
MISSING = ("", "NA", "N/A", "null", "-", "nan", "None", "#N/A")


def test_every_bad_row_is_one_failure_and_nothing_else_changes(tmp_path):
    """Good and bad rows in turn; cells that mean "no value" leave the label out."""
    lines, failed, expected = [], {}, {}
    for number, (row, reason) in enumerate(BAD.items()):
        good = GOOD[number % len(GOOD)]
        expected[len(lines)] = good
        lines.append(f"{good[0]},{good[1]}")
        failed[len(lines)] = reason
        lines.append(row)
    for text in MISSING:
        expected[len(lines)] = ("CCCC", math.nan)
        lines.append(f"CCCC,{text}")
    (tmp_path / "in.csv").write_text("smiles,y\n" + "\n".join(lines) + "\n")
    done = preprocess(tmp_path / "store", "csv", tmp_path / "in.csv", "--label", "y", "--split", "none")
    assert done.code == 0, done.said
    store = Store(tmp_path / "store")
    reasons = account(store, range(len(lines)))
    assert set(reasons) == set(failed)
    for row, reason in failed.items():
        assert reason in reasons[row], lines[row][:60]
    found = stored(store)
    assert set(found) == set(expected)
    for row, (smiles, value) in expected.items():
        assert found[row][0] == smiles
        np.testing.assert_equal(found[row][1], value)


@pytest.mark.parametrize("place", range(4))
def test_a_stray_quote_costs_its_own_row(place, tmp_path):
    lines = TABLE.splitlines()
    lines[2 * place + 1] = lines[2 * place + 1].replace("über", '"5 inch')
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    done = preprocess(tmp_path / "store", "csv", tmp_path / "in.csv", "--label", "logS")
    assert done.code == 0, done.said
    store = Store(tmp_path / "store")
    assert set(account(store, range(len(GOOD)))) == {2 * place}
    assert [molecule for _, molecule in sorted(stored(store).items())] == [g for i, g in enumerate(GOOD) if i != 2 * place]


REFUSED = {
    "smiles,y,y\nCCO,1,2\n": "2 columns are named 'y'",
    "a,b\nCCO,1\n": "no column 'smiles'",
    "smiles,x\nCCO,1\n": "no column 'y'",
    "": "",
    "smiles,y\n": "there is no row to make a molecule of",
    "smiles,y\n" + "".join(f"CCO,{i % 2}\n" for i in range(9)): "y:classification",
    "smiles,y\n" + "nonsense,1.5\n" * 3: "no molecule could be read (3 failures)",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_cannot_be_meant_is_refused(text, message, tmp_path):
    (tmp_path / "in.csv").write_text(text)
    done = preprocess(tmp_path / "store", "csv", tmp_path / "in.csv", "--label", "y")
    assert done.code == 2
    assert message in done.said
    assert "in.csv" in done.said or "failures.csv" in done.said
    assert not (tmp_path / "store").exists()


def sd_file() -> bytes:
    """Six molecules with structures and a label."""
    lines = []
    for smiles, value in GOOD[:6]:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
        lines.append(f"{Chem.MolToMolBlock(molecule)}>  <logS>\n{value}\n\n$$$$\n")
    return "".join(lines).encode()


def unimol_file() -> bytes:
    """Six records of Uni-Mol with two conformers each, as an LMDB file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        records = [record(smiles, value) for smiles, value in GOOD[:6]]
        return write(Path(folder) / "a.lmdb", records).read_bytes()


def damaged(content: bytes, generator: random.Random) -> bytes:
    """One change of a file, as disks, transfers, editors and attackers make them."""
    data = bytearray(content)
    at, length = generator.randrange(len(data)), generator.choice((1, 2, 7, 60, 500))
    kind = generator.randrange(7)
    if kind == 0:
        data[at] ^= 1 << generator.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        data[at:at] = generator.choice((b'"', b"'", b"\0", b"\n", b"\r", b",", b"\xff\xfe", b"$$$$\n", b"M  END\n", b"nan", b"-1e999"))
    elif kind == 4:
        data[at : at + length] = generator.randbytes(length)
    elif kind == 5:
        other = generator.randrange(len(data))
        data[at : at + length] = data[other : other + length]
    else:
        data[at : at + length] = bytes(min(length, len(data) - at))
    return bytes(data)


@pytest.mark.parametrize(
    ("source", "name", "make", "count"),
    [
        ("csv", "in.csv", TABLE.encode, 50),
        ("sdf", "in.sdf", sd_file, 50),
        ("unimol", "in.lmdb", unimol_file, 50),
        ("csv", "in.csv.gz", None, 20),
    ],
    ids=["csv", "sdf", "unimol", "gz"],
)
def test_files_with_random_damage_are_read_or_refused(source, name, make, count, tmp_path):
    """Never a traceback; a store that was made is whole: its rows are the file's without gaps, its coordinates and labels numbers."""
    content = make() if make is not None else gzip.compress(TABLE.encode())
    ends = {0: 0, 2: 0}
    for seed in range(count):
        given, out = tmp_path / f"{seed}" / name, tmp_path / f"{seed}" / "store"
        given.parent.mkdir()
        given.write_bytes(damaged(content, random.Random(seed)))
        options = () if source == "unimol" else ("--label", "logS")
        done = preprocess(out, source, given, *options)
        ends[done.code] += 1
        if done.code == 0:
            check_whole(Store(out))
    print(f"{source}: {ends[0]} read, {ends[2]} refused")
    assert ends[0] + ends[2] == count
    assert ends[0] > 0


def check_whole(store: Store) -> None:
    """Rows without gaps, and only numbers in what is stored."""
    told = {failure.row for failure in store.failures()}
    rows = told | set(store.source_row.tolist())
    account(store, rows)
    assert rows == set(range(max(rows) + 1))
    for entry in store.records(range(len(store))):
        _, graph = decode(entry)
        assert graph.coordinates is None or np.isfinite(graph.coordinates).all()
        assert not np.isinf(graph.labels).any()
    assert moleblend("inspect", store.path, "--verify").code == 0
