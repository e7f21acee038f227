"""`moleblend inspect` on a small store whose contents are known."""

import re

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.chem.depict import drawing, molecule_from_graph, molecule_svg, smiles_svg
from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.cli.inspect import as_option, general
from moleblend_fs.cli.main import main
from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.writer import StoreWriter

SMILES = ["c1ccccc1O", "CC(=O)[O-].[Na+]", "C", "C1CC1C#N", "F/C=C/F", "C[N+](C)(C)C"]


def graph(smiles: str, label: float):
    mol = Chem.MolFromSmiles(smiles)
    return graph_from_mol(mol, smiles=smiles, labels=np.array([label, np.nan]))


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    results = [(row, EncodedMolecule.from_graph(graph(smiles, float(row)), row)) for row, smiles in enumerate(SMILES)]
    failures = [(row, Failure(input=f"junk{row}", reason=f"RDKit cannot read the SMILES: 'junk{row}'")) for row in range(6, 9)]
    with StoreWriter(path, {"in": "test"}) as writer:
        writer.add([*results, *failures], next_row=9)
        writer.finish(
            source="smiles",
            options={"column": "smiles"},
            inputs={"a.csv": "0" * 64},
            labels=(LabelSpec(name="gap", unit="meV", kind="regression"), LabelSpec(name="toxic", unit="", kind="classification")),
            splitter=Splitter(kind="random", fractions=(0.5, 0.25, 0.25)),
            versions={"rdkit": "x"},
        )
    return path


def test_text_shows_counts_sizes_labels_splits_failures_and_molecules(store, capsys):
    assert main(["inspect", str(store), "--molecules", "6"]) == 0
    out = capsys.readouterr().out
    manifest = Store(store).manifest
    assert re.search(r"molecules +6\n", out)
    assert re.search(r"failures +3\n", out)
    assert "1 to 7, median 5, mean 4.50, 99 % have at most 7" in out  # 7, 5, 1, 5, 4, 5 atoms
    assert all(info.sha256 in out for info in manifest.splits.values())
    train = manifest.statistics["train"][0]
    assert re.search(rf"gap +meV +regression +train +{train.count} +{train.mean:.6g} +{train.std:.6g}", out)
    assert re.search(r"toxic +- +classification +train +0 +-", out)
    assert re.search(r"3 +RDKit cannot read the SMILES +junk6", out)
    assert all(smiles in out for smiles in SMILES)
    assert f"{manifest.records_bytes / 6:,.0f} in the file" in out


def test_page_holds_one_picture_for_each_molecule_and_nothing_from_outside(store, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["inspect", str(store), "--molecules", "3", "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count('<svg role="img" aria-label="molecule ') == 3
    assert not re.search(r"<(script|link|img)\b", text)
    assert "RDKit cannot read the SMILES" in text


@pytest.mark.parametrize(
    ("reason", "row", "expected"),
    [
        (
            "RDKit: Explicit valence for atom # 1 N, 5, is greater than permitted",
            "CN(C)(C)C",
            "RDKit: Explicit valence for atom # ... N, ..., is greater",
        ),
        ("RDKit: SMILES Parse Error: unclosed ring for input: 'C1CC'", "C1CC", "RDKit: SMILES Parse Error: unclosed ring for input"),
        ("label 'logS' is 'n/a', which is no number", "CCO", "label ... is ..., which is no number"),
        ("2000 atoms; a molecule must have 1 to 500", "C" * 2000, "... atoms; a molecule must have"),
        ("can't kekulize mol: it's odd", "c1cc1", "can't kekulize mol: it's odd"),
        ("", "C", "no reason given"),
    ],
)
def test_reasons_are_told_but_for_what_is_of_their_row(reason, row, expected):
    assert general(reason, row).startswith(expected)


def test_options_are_written_for_people():
    options = {"hydrogens": "none", "conformers": {"count": 1, "steps": 200}, "fractions": [0.8, 0.1, 0.1], "chirality": True, "path": None}
    options["labels"] = [{"name": name, "unit": "", "kind": "regression"} for name in "abcdef"]
    text = as_option(options)
    assert text == (
        "hydrogens none, conformers count 1, steps 200, fractions 0.8 : 0.1 : 0.1, chirality yes, path none, "
        "labels a + b + c + d and 2 more"
    )


def test_page_has_short_hashes_and_the_whole_ones_on_request(store, tmp_path):
    page = tmp_path / "page.html"
    assert main(["inspect", str(store), "--html", str(page)]) == 0
    before, after = page.read_text().split("<details>")
    digest = Store(store).manifest.splits["train"].sha256
    assert digest[:12] in before
    assert digest not in before
    assert digest in after
    assert not re.search("[{}]", re.sub("<style>.*?</style>", "", before, flags=re.DOTALL)), "no dictionaries of Python"


def test_verify_accepts_the_store_and_notices_one_changed_byte(store, capsys):
    assert main(["inspect", str(store), "--verify"]) == 0
    assert Store(store).manifest.records_sha256 in capsys.readouterr().out
    records = store / "records.lmdb"
    raw = bytearray(records.read_bytes())
    value = Store(store).record(3)
    assert raw.count(value) >= 1
    raw = raw.replace(value, value[:-1] + bytes([value[-1] ^ 1]))
    records.unlink()  # a new inode, so that the map of the old file stays as it was
    records.write_bytes(raw)
    copy = store.with_name("copy")
    store.rename(copy)
    assert main(["inspect", str(copy), "--molecules", "0", "--verify"]) == 1
    assert "NOT VERIFIED" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["/nowhere/at/all"], ["{store}", "--molecules", "-1"]])
def test_mistakes_give_a_message_and_exit_code_2(store, arguments, capsys):
    assert main(["inspect", *(a.format(store=store) for a in arguments)]) == 2
    assert capsys.readouterr().err.startswith("moleblend inspect: ")


@pytest.mark.parametrize("smiles", SMILES)
def test_drawn_molecule_is_the_stored_one(smiles):
    """Read back from the graph alone, the molecule has the input's canonical SMILES (stereochemistry aside)."""
    drawn = molecule_from_graph(graph(smiles, 0.0))
    expected = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(expected)
    assert Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(drawn))) == Chem.MolToSmiles(expected)
    assert [a.GetAtomicNum() for a in drawn.GetAtoms()] == [a.GetAtomicNum() for a in Chem.MolFromSmiles(smiles).GetAtoms()]


def test_picture_numbers_the_atoms_on_request():
    plain, numbered = (molecule_svg(graph("CCO", 0.0), numbers=numbers) for numbers in (False, True))
    assert plain.startswith("<svg")
    assert len(numbered) > len(plain)


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("smiles", ["C[C@H](O)C#N", "F/C=C/F", "F/C=C\\F", "C[C@@H]1CC[C@H]2CCCC[C@@H]2C1", "N[C@@H](C)C(=O)O.Cl"])
def test_picture_shows_stereochemistry(smiles, hydrogens):
    """What is drawn, read again as a drawing, is the molecule: wedges, and double bonds in their geometry."""
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    order = np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist()
    shuffled = graph_from_mol(Chem.RenumberAtoms(mol, order), smiles=smiles, labels=np.zeros(0))
    for numbers in (False, True):
        drawn = drawing(shuffled, numbers=numbers)
        again = Chem.MolFromMolBlock(Chem.MolToMolBlock(drawn))
        assert Chem.MolToSmiles(again) == Chem.CanonSmiles(smiles)
    assert [a.GetAtomicNum() for a in drawn.GetAtoms()] == (shuffled.atom_features[:, 0] + 1).tolist(), "numbers are the store's"


def angle(mol, a: int, b: int, c: int) -> float:
    places = mol.GetConformer().GetPositions()
    u, v = places[a] - places[b], places[c] - places[b]
    return float(np.degrees(np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1))))


@pytest.mark.parametrize("name", ["CCC#N", "of another molecule"])
def test_triple_bonds_are_straight(name):
    """Also where the SMILES does not tell of the stored atoms, and these alone are drawn."""
    stored = graph("CCC#N", 0.0)
    stored.smiles = name
    assert angle(drawing(stored, numbers=True), 1, 2, 3) == pytest.approx(180, abs=1)
    assert angle(drawing(stored, numbers=True), 0, 1, 2) == pytest.approx(120, abs=5)


@pytest.mark.parametrize("smiles", ["", " ", "C1CC", "c1cc1", "no molecule", "C" * 5000, "\ud800", "C\0C", "[Xx]"])
def test_there_is_no_picture_of_what_is_no_molecule(smiles):
    assert smiles_svg(smiles) is None
    stored = graph("CCO", 0.0)
    stored.smiles = smiles
    assert molecule_svg(stored).startswith("<svg")
