"""`moleblend predict` of tables, lists, SD files and SMILES: a line for each row, the store's numbers, and runs that go on."""

import bz2
import csv
import fcntl
import gzip
import io
import lzma
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from moleblend_fs import Embedder, Explainer
from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.cli.main import main
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.predictions import resumable_table
from moleblend_fs.predictions.embedder import in_order
from moleblend_fs.predictions.in_memory import taken
from moleblend_fs.sources.molecules_to_predict import open_incoming
from tests.conftest import preprocessed
from tests.inference.untrained_models import untrained

COMMAND = str(Path(sys.executable).parent / "moleblend")
SMILES = ("CCO", "not_a_smiles", "c1ccccc1", "", "C1CC", "CC(C)=O", "OC(=O)c1ccccc1O", "C" * 30, "[Na+].[Cl-]", "CCO")


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("models") / "model", width=64)


def trained_on(folder: Path, store, **options: str) -> Path:
    """A model that says that it was trained on a store."""
    checkpoint = load(untrained(folder / "plain", width=64, **options))  # type: ignore[arg-type]
    checkpoint.trained_on = TrainedOn.of(store.manifest)
    save(checkpoint, folder / "model")
    return folder / "model"


def write_csv(path: Path, smiles=SMILES, delimiter: str = ",") -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([["id", "smiles", "remark"], *([f"X{i}", text, f"a{delimiter} {i}"] for i, text in enumerate(smiles))])
    return path


def test_the_numbers_are_the_stores(model, tmp_path):
    """The same text of the same bits through a store, in another order, by other processes, batches and windows."""
    source = write_csv(tmp_path / "in.csv")
    store = preprocessed(tmp_path / "store", "csv", str(source), "--split", "none")
    assert main(["predict", str(model), str(store.path), str(tmp_path / "store.csv"), "--source", str(source)]) == 0
    expected = [(line["id"], line["y"], line["status"]) for line in table(tmp_path / "store.csv")]
    assert [line[2] == "ok" for line in expected] == [True, False, True, False, False, True, True, True, True, True]
    for number, options in enumerate(([], ["--workers", "1", "--max-tokens", "1"], ["--workers", "3", "--max-tokens", "40"])):
        assert main(["predict", str(model), str(source), str(tmp_path / f"{number}.csv"), "--no-progress", *options]) == 0
        lines = table(tmp_path / f"{number}.csv")
        assert [(line["id"], line["y"], line["status"]) for line in lines] == expected
        assert [line["remark"] for line in lines] == [f"a, {i}" for i in range(len(SMILES))]
    backwards = write_csv(tmp_path / "back.csv", SMILES[::-1])
    assert main(["predict", str(model), str(backwards), str(tmp_path / "back.out"), "--no-progress"]) == 0
    assert [line["y"] for line in table(tmp_path / "back.out")][::-1] == [line[1] for line in expected]


@pytest.mark.parametrize("kind", ["tab", "semicolon", "list", "gz", "stdin", "words", "column", "list without names"])
def test_inputs_of_every_kind(model, tmp_path, kind, monkeypatch, capsys):
    out, options = tmp_path / "out.csv", []
    names = ["id", "smiles", "remark"]
    rows = [text for text in SMILES if text not in ("", "not_a_smiles", "C1CC")]
    listed = "# mine\n" + "".join(f"{text} X{i} of mine\n\n" for i, text in enumerate(rows))
    if kind in ("tab", "semicolon"):
        given = [str(write_csv(tmp_path / "in.txt", rows, {"tab": "\t", "semicolon": ";"}[kind]))]
    elif kind == "gz":
        (tmp_path / "in.csv.gz").write_bytes(gzip.compress(write_csv(tmp_path / "plain", rows).read_bytes()))
        given = [str(tmp_path / "in.csv.gz")]
    elif kind == "column":
        text = write_csv(tmp_path / "plain", rows).read_text().replace("smiles", "what it is")
        (tmp_path / "in.csv").write_text(text)
        assert main(["predict", str(model), str(tmp_path / "in.csv"), str(out)]) == 2
        assert "no column is called smiles; the first line has: id, what it is, remark. Name the column with" in capsys.readouterr().err
        given, names = [str(tmp_path / "in.csv"), "--smiles-column", "what it is"], ["id", "what it is", "remark"]
    elif kind == "words":
        given, options, names = [], ["--smiles", *rows], ["smiles"]
    elif kind == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
        given, names = ["-"], ["smiles", "name"]
    else:
        (tmp_path / "in.smi").write_text(listed if kind == "list" else "\n".join(rows))
        given, names = [str(tmp_path / "in.smi")], ["smiles", "name"]
    assert main(["predict", str(model), *given[:1], str(out), *given[1:], *options, "--no-progress"]) == 0
    lines = table(out)
    assert list(lines[0]) == [*names, "y", "status"]
    assert [line[names[min(1, len(names) - 1)] if "id" in names else "smiles"] for line in lines] == rows
    assert all(line["status"] == "ok" and line["y"] for line in lines)
    if "name" in names:
        assert [line["name"] for line in lines] == [("" if "without" in kind else f"X{i} of mine") for i in range(len(rows))]
    assert f"{len(rows)} molecules: {out}\n" in capsys.readouterr().out


def test_rows_that_are_no_rows_have_their_lines(model, tmp_path):
    (tmp_path / "in.csv").write_text('smiles,y,status\nCCO,1,new\nCC,2\nCC,3,4,5\n"CC,4,x\n\nCO,5,old\n')
    assert main(["predict", str(model), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "--no-progress"]) == 0
    lines = table(tmp_path / "out.csv")
    assert list(lines[0]) == ["smiles", "y", "status", "y (predicted)", "status (predicted)"]
    assert [line["status (predicted)"].split(":")[0] for line in lines] == ["ok", "no molecule", "no molecule", "no molecule", "ok"]
    assert [line["status"] for line in lines] == ["new", "", "4,5", "", "old"]
    assert "the row has 2 columns, the header 3" in lines[1]["status (predicted)"]


def test_cells_beyond_the_header_stand_as_the_file_has_them(tmp_path):
    (tmp_path / "in.csv").write_text("smiles;y;z\nCC;1,5;2,5;3,5\nCCC;1,5\n")
    cells = [row.cells for row in open_incoming(tmp_path / "in.csv").incoming()]
    assert cells == [["CC", "1,5", "2,5;3,5"], ["CCC", "1,5", ""]]


@pytest.mark.parametrize(
    ("content", "code", "said"), [(b"", 2, ": the file is empty\n"), (b"smiles\tx\nC\n", 0, ": read as separated by tabs\n")]
)
def test_messages_call_standard_input_so(model, monkeypatch, capfd, content, code, said):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["predict", str(model), "-", "--workers", "0"]) == code
    assert f"moleblend predict: standard input{said}" in capfd.readouterr().err


def test_a_pipe_that_has_a_name_is_read_once(model, tmp_path, capfd):
    """As `predict MODEL <(zcat mine.csv.gz)` gives it; it was no such file."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", 'printf "smiles;x\\nCCO;1\\nbad;2\\n" > "$0"', str(tmp_path / "pipe")]):
        assert main(["predict", str(model), str(tmp_path / "pipe"), "--workers", "0", "--no-progress"]) == 0
    found = capfd.readouterr()
    assert [line.split(",")[0] for line in found.out.splitlines()] == ["smiles", "CCO", "bad"]
    assert f"{tmp_path / 'pipe'}: read as separated by semicolons" in found.err
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_what_is_read_more_than_once_is_no_pipe(model, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["finetune", str(tmp_path / "pipe"), str(tmp_path / "run"), "--target", "y"]) == 2
    assert "is a pipe or a device, and is to be read more than once: save it as a file" in capsys.readouterr().err
    assert main(["preprocess", "csv", str(tmp_path / "pipe"), str(tmp_path / "store"), "--split", "none"]) == 2
    assert "is a pipe or a device" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a pipe or a device"):
        taken(str(tmp_path / "pipe"))
    assert main(["predict", str(model), "/dev/zero", str(tmp_path / "out.csv")]) == 2
    assert "/dev/zero: is a pipe or a device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_standard_input_that_is_closed(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", str(model), "-"]) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_files_after_smiles_are_no_smiles(model, tmp_path, capsys):
    assert main(["predict", str(model), "--smiles", "CCO", str(tmp_path / "out.csv")]) == 2
    assert "out.csv is no SMILES; files stand before it" in capsys.readouterr().err


def test_an_sd_file_keeps_titles_and_items(tmp_path, capsys):
    """With structures for a model that was trained on a file's, without where the model reads none."""
    path = tmp_path / "in.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for number, smiles in enumerate(("CCO", "CC(=O)O", "c1ccccc1")):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            if number < 2:
                AllChem.EmbedMolecule(mol, randomSeed=1)
            mol.SetProp("_Name", f"M{number}")
            mol.SetProp(f"item{number}", "x, y")
            writer.write(mol)
    path.write_text(path.read_text() + "broken\n\n\nnothing\nM  END\n> <late>\n7\n\n$$$$\n")
    store = preprocessed(tmp_path / "store", "sdf", str(path), "--split", "none", "--same-molecule", "apart")
    for inputs in ("2d", "2d+3d"):
        folder = tmp_path / inputs
        folder.mkdir()
        model = trained_on(folder, store, inputs=inputs)
        assert main(["predict", str(model), str(store.path), str(folder / "store.csv")]) == 0
        capsys.readouterr()
        assert main(["predict", str(model), str(path), str(folder / "out.csv"), "--no-progress"]) == 0
        lines, expected = table(folder / "out.csv"), table(folder / "store.csv")
        assert list(lines[0]) == ["name", "smiles", "item0", "item1", "item2", "late", "y", "status"]
        assert [line["y"] for line in lines] == [line["y"] for line in expected]
        assert [line["status"] for line in lines] == [line["status"] for line in expected]
        assert [(line["name"], line["item1"], line["late"]) for line in lines] == [
            ("M0", "", ""), ("M1", "x, y", ""), ("M2", "", ""), ("broken", "", "7"),
        ]  # fmt: skip
        assert lines[0]["smiles"] == "CCO"
    assert "from 2D alone" in lines[2]["status"]


def test_conformers_are_made_as_in_training(tmp_path):
    source = write_csv(tmp_path / "in.csv", ("CCO", "bad", "CC(C)=O"))
    options = ("--split", "none", "--conformers", "2", "--conformer-seed", "5", "--hydrogens", "explicit")
    store = preprocessed(tmp_path / "store", "csv", str(source), *options)
    model = trained_on(tmp_path, store, inputs="2d+3d")
    assert main(["predict", str(model), str(store.path), str(tmp_path / "store.csv")]) == 0
    assert main(["predict", str(model), str(source), str(tmp_path / "out.csv"), "--no-progress"]) == 0
    lines = table(tmp_path / "out.csv")
    assert [line["y"] for line in lines] == [line["y"] for line in table(tmp_path / "store.csv")]
    assert [line["status"] for line in lines][::2] == ["ok", "ok"]
    assert main(["predict", str(model), str(source), str(tmp_path / "h.csv"), "--hydrogens", "none"]) == 2


@pytest.mark.parametrize("hydrogens", ["none", "explicit"])
def test_atoms_of_rdkit_molecules_stand_in_their_own_order(tmp_path, hydrogens):
    """Also where structures are made, of the canonical SMILES: its atoms stand in another order."""
    source = write_csv(tmp_path / "in.csv", ("CCO", "CC(C)=O", "CCN"))
    store = preprocessed(tmp_path / "store", "csv", str(source), "--split", "none", "--conformers", "1", "--hydrogens", hydrogens)
    model = trained_on(tmp_path, store, inputs="2d+3d")
    mol = Chem.RenumberAtoms(Chem.MolFromSmiles("OCC(N)=O"), [3, 1, 4, 0, 2])
    canonical = Chem.MolToSmiles(mol)
    ranks, written = (Chem.CanonicalRankAtoms(each, breakTies=False) for each in (mol, Chem.MolFromSmiles(canonical)))
    places = [list(written).index(rank) for rank in ranks]
    assert places != sorted(places)
    with Embedder(model) as embedder:
        (expected,), (_, found) = embedder([canonical], level="atom"), embedder([None, mol], level="atom")
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found[:5], expected[places])
        np.testing.assert_array_equal(found[5:], expected[5:])
        (with_hydrogens,) = embedder([Chem.AddHs(mol)], level="atom")
        np.testing.assert_array_equal(with_hydrogens, found)
    pytest.importorskip("captum", reason="explaining needs captum (pip install 'moleblend-fs[explain]')")
    explainer = Explainer(model)
    (expected,), (_, found) = explainer([canonical]), explainer([None, mol])
    assert found.elements[:5] == tuple(atom.GetSymbol() for atom in mol.GetAtoms()) != expected.elements[:5]
    np.testing.assert_allclose(found.atoms[0, :5], expected.atoms[0, places], atol=1e-5)
    pairs = {frozenset(pair): value for pair, value in zip(expected.pairs.tolist(), expected.relations["distance"][0], strict=True)}
    of_pairs = [pairs[frozenset((places[i], places[j]))] for i, j in found.pairs.tolist() if j < 5]
    assert np.ptp(of_pairs) > 1e-4
    np.testing.assert_allclose(
        [v for v, (_, j) in zip(found.relations["distance"][0], found.pairs, strict=True) if j < 5], of_pairs, atol=1e-5
    )
    pairs = np.arange(9).reshape(3, 3)
    assert in_order(pairs, np.array([2, 0, 1]), "distances").tolist() == [[8, 6, 7], [2, 0, 1], [5, 3, 4]]


def test_what_does_not_fit_is_told(tmp_path, capsys):
    source = write_csv(tmp_path / "in.csv", ("CCO", "CCN"))
    store = preprocessed(tmp_path / "store", "csv", str(source), "--split", "none")
    model = trained_on(tmp_path, store, inputs="2d+3d")
    cases = {
        "the input is SMILES alone": [str(source)],
        "those of the input have explicit hydrogens": [str(source), "--hydrogens", "explicit", "--allow-differences", "structures"],
        "no such file": [str(tmp_path / "none.csv")],
        "--split goes with a store": [str(source), "--split", "test"],
        "--format goes with tables and lists": [str(store.path), "--format", "csv"],
        "--smiles-column goes with tables, --format smiles says": [str(source), "--format", "smiles", "--smiles-column", "smiles"],
        "give an INPUT": [],
        "--interval must lie between 0 and 1": [str(source), "--interval", "90"],
        "would overwrite what is read": [str(source), str(source)],
    }
    for message, words in cases.items():
        capsys.readouterr()
        out = [str(tmp_path / "out.csv")] if len(words) and not (len(words) > 1 and words[1] == words[0]) else []
        assert main(["predict", str(model), *words[:1], *out, *words[1:]]) == 2, message
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "model", "plain", "store"]


def test_the_default_output_lies_beside_the_input_and_is_not_written_over(model, tmp_path, capsys):
    source = write_csv(tmp_path / "in.csv", ("CCO", "CCN"))
    assert main(["predict", str(model), str(source), "--no-progress"]) == 0
    assert len(table(tmp_path / "in.predictions.csv")) == 2
    assert main(["predict", str(model), str(source), "--no-progress"]) == 2
    assert "in.predictions.csv exists already; name it as OUT to write over it" in capsys.readouterr().err


def test_the_default_output_of_a_link_lies_beside_the_link(model, tmp_path, capsys):
    """Where it leads there may be data that many share, and no right to write."""
    for name in ("shared", "mine"):
        (tmp_path / name).mkdir()
    write_csv(tmp_path / "shared" / "data.csv", ("CCO", "CCN"))
    (tmp_path / "mine" / "in.csv").symlink_to("../shared/data.csv")
    assert main(["predict", str(model), str(tmp_path / "mine" / "in.csv"), "--no-progress"]) == 0
    assert len(table(tmp_path / "mine" / "in.predictions.csv")) == 2
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["data.csv"]
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert main(["predict", str(model), str(tmp_path / "loop.csv")]) == 2
    assert "loop.csv" in capsys.readouterr().err.splitlines()[-1]


KILLED = """
import os, signal, sys
from moleblend_fs import Embedder
from moleblend_fs.cli.main import main
from moleblend_fs.predictions import resumable_table, writing

write = resumable_table.ResumableFile.write

def write_and_die(self, text, rows, counts):
    write(self, text, rows, counts)
    if rows >= 40:
        self._stream.write(b"half a li")
        self._stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

resumable_table.ResumableFile.write = write_and_die
writing.write_table.__kwdefaults__["window"] = 20
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on(model, tmp_path, capsys):
    """Nothing is lost and nothing repeated; what was done of another request is not gone on with."""
    many = [text for i in range(25) for text in ("C" * (i % 23 + 1), "N" + "C" * (i % 17), "bad", f"c1ccccc1{'C' * (i % 9)}")]
    source, out = write_csv(tmp_path / "in.csv", many), tmp_path / "out.csv"
    assert main(["predict", str(model), str(source), str(tmp_path / "whole.csv"), "--no-progress"]) == 0
    partial, ledger = tmp_path / "out.csv.partial", tmp_path / "out.csv.partial.json"
    words = ["predict", str(model), str(source), str(out), "--no-progress", "--workers", "1"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    before = partial.read_bytes()
    assert before.count(b"\n") == 41
    assert before.endswith(b"half a li")
    capsys.readouterr()
    assert main([*words, "--interval", "0.5"]) == 2
    assert "was begun with other options or inputs (interval: 0.9 then, 0.5 now)" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().err
    assert f"going on after row 40 of {out}, where an earlier run was stopped" in said
    assert "25 rows of the source gave no molecule" in said, "those before the kill count, too"
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not partial.exists()
    assert not ledger.exists()


@pytest.mark.parametrize(("ending", "unpack"), [("gz", gzip.decompress), ("xz", lzma.decompress), ("bz2", bz2.decompress)])
def test_a_packed_table_is_what_its_name_says(model, tmp_path, ending, unpack):
    """Also where it was stopped in between."""
    source = write_csv(tmp_path / "in.csv")
    for name in ("out.csv", f"out.csv.{ending}"):
        assert main(["predict", str(model), str(source), str(tmp_path / name), "--no-progress", "--workers", "0"]) == 0
    assert unpack((tmp_path / f"out.csv.{ending}").read_bytes()) == (tmp_path / "out.csv").read_bytes()
    out = tmp_path / f"parts.csv.{ending}"
    for text, rows in (("smiles\nCCO\n", 1), ("CCN\n", 2)):
        file = resumable_table.ResumableFile(out, {"asked": "the same"})
        assert file.rows == rows - 1
        file.write(text, rows, {})
        file._stream.write(b"half a part")
        file.close()
    resumable_table.ResumableFile(out, {"asked": "the same"}).finish()
    assert unpack(out.read_bytes()) == b"smiles\nCCO\nCCN\n"
    assert [row.cells for row in open_incoming(out).incoming()] == [["CCO"], ["CCN"]]


@pytest.mark.parametrize("name", ["out.tsv", "out.TSV.gz", "out.tab"])
def test_cells_are_separated_as_the_name_says(model, tmp_path, name):
    source = write_csv(tmp_path / "in.csv")
    for out in (name, "out.csv"):
        assert main(["predict", str(model), str(source), str(tmp_path / out), "--no-progress", "--workers", "0"]) == 0
    content = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(content) if name.endswith(".gz") else content).decode().splitlines()
    with open(tmp_path / "out.csv", newline="") as stream:
        assert list(csv.reader(lines, delimiter="\t", strict=True)) == list(csv.reader(stream, strict=True))
    incoming = open_incoming(tmp_path / name)
    assert [row.cells[2] for row in incoming.incoming()] == [f"a, {i}" for i in range(len(SMILES))]


def test_a_name_of_another_format_is_refused(model, tmp_path, capsys):
    source = write_csv(tmp_path / "in.csv")
    assert main(["predict", str(model), str(source), str(tmp_path / "out.xlsx")]) == 2
    assert "predictions are written as CSV; choose a name that ends in .csv" in capsys.readouterr().err
    assert not (tmp_path / "out.xlsx").exists()


def test_what_another_command_left_is_kept(model, tmp_path, capsys):
    source, out = write_csv(tmp_path / "in.csv", ("CCO", "CCN")), tmp_path / "out.csv"
    (tmp_path / "out.csv.partial").write_text("mine")
    assert main(["predict", str(model), str(source), str(out), "--no-progress"]) == 2
    assert "out.csv.partial is in the way of" in capsys.readouterr().err
    assert (tmp_path / "out.csv.partial").read_text() == "mine"


def test_the_table_goes_to_a_pipe_alone(model):
    done = subprocess.run([COMMAND, "predict", str(model), "--smiles", "CCO", "C1CC"], capture_output=True, text=True, check=True)
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [line["smiles"] for line in lines] == ["CCO", "C1CC"]
    assert lines[0]["status"] == "ok"
    assert "unclosed ring" in lines[1]["status"]
    full = f"'{COMMAND}' predict '{model}' --smiles CCO > /dev/full"
    done = subprocess.run(full, shell=True, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_table_that_is_finished_between_opening_and_locking_stays(tmp_path, monkeypatch):
    """Another process that had opened OUT.partial got the lock of what was OUT by then, and cut it to nothing."""
    out = tmp_path / "out.csv"
    first = resumable_table.ResumableFile(out, {})
    first.write("smiles\nCCO\n", 1, {})
    flock, tries = fcntl.flock, []

    def locked_after_the_other_is_done(stream, how) -> None:
        tries.append(os.fstat(stream.fileno()).st_ino)
        if len(tries) == 1:
            first.finish()
        flock(stream, how)

    monkeypatch.setattr(fcntl, "flock", locked_after_the_other_is_done)
    second = resumable_table.ResumableFile(out, {})
    assert tries[0] == out.stat().st_ino != tries[1]
    assert (second.rows, out.read_text()) == (0, "smiles\nCCO\n")
    second.write("smiles\nCCN\n", 1, {})
    second.finish()
    assert out.read_text() == "smiles\nCCN\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_run_killed_while_it_gave_the_table_its_name(tmp_path):
    """What it still said of OUT.partial was held against the next run of the same command."""
    out = tmp_path / "out.csv"
    first = resumable_table.ResumableFile(out, {})
    first.write("smiles\nCCO\n", 1, {})
    os.replace(first.partial, out)
    first._stream.close()
    assert (tmp_path / "out.csv.partial.json").is_file()
    again = resumable_table.ResumableFile(out, {})
    assert again.rows == 0
    again.write("smiles\nCCO\n", 1, {})
    again.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
