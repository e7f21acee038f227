"""A user's own CSV, SD and SMILES files."""

import gzip

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.csv_and_smiles import CsvSource, SmilesFile
from moleblend_fs.sources.labels import UNSAID, parse_label
from moleblend_fs.sources.sdf import SdfSource
from moleblend_fs.sources.sdf_records import sdf_items, sdf_records

PLAIN, RANDOM = BuildOptions(), Splitter(kind="random")


def csv_source(path, labels=("y",), **options):
    specs = [LabelSpec(name=name, unit="", kind="regression") for name in labels]
    return CsvSource(path, smiles_column="smiles", labels=specs, build=PLAIN, splitter=RANDOM, **options)


def parsed(source):
    return [source.parse(raw) for _, raw in source.rows(0)]


def test_csv_with_splits_quotes_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffsmiles,"name, long",y,part\nCCO,"a ""b""\nc",1.5,train\n\nCCN,,,test\nCC,,3,\n', encoding="utf-8")
    first, second, third = parsed(csv_source(path, split_column="part"))
    assert (first.smiles, first.labels.tolist(), first.split) == ("CCO", [1.5], "train")
    assert np.isnan(second.labels[0])
    assert second.split == "test"
    assert third.reason == "no split given"


def test_csv_messages(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,y\nCCO,1\n")
    with pytest.raises(UserError, match=r"a\.csv: no column 'z'; the file has: smiles, y"):
        csv_source(path, labels=("z",))
    with pytest.raises(UserError, match="named twice"):
        csv_source(path, labels=("y", "y"))
    (tmp_path / "b.csv").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(UserError, match="not a text file"):
        csv_source(tmp_path / "b.csv")
    (tmp_path / "c.csv.gz").write_bytes(b"smiles,y\nCCO,1\n")
    with pytest.raises(UserError, match="damaged"):
        csv_source(tmp_path / "c.csv.gz")
    with pytest.raises(UserError, match="folder"):
        csv_source(tmp_path)
    (tmp_path / "d.csv").write_bytes(b"x" * (20 << 20))
    with pytest.raises(UserError, match="not a text file"):
        csv_source(tmp_path / "d.csv")


def test_labels_on_the_command_line():
    assert parse_label("gap") == LabelSpec(name="gap", kind=UNSAID, unit="")
    assert parse_label("gap:regression:eV") == LabelSpec(name="gap", kind="regression", unit="eV")
    assert parse_label("tox:classification") == LabelSpec(name="tox", kind="classification", unit="")
    assert parse_label("a:b", columns=["a:b"]).name == "a:b"
    with pytest.raises(UserError, match="kind must be"):
        parse_label("gap:eV")


def test_smiles_file(tmp_path):
    path = tmp_path / "a.smi.gz"
    path.write_bytes(gzip.compress(b"CCO ethanol\n\n# comment\nC1CC bad\nCCN"))
    source = SmilesFile(path, build=PLAIN, splitter=RANDOM)
    assert [row for row, _ in source.rows(0)] == [0, 3, 4]
    assert [row for row, _ in source.rows(1)] == [3, 4]
    first, second, third = parsed(source)
    assert (first.smiles, third.smiles) == ("CCO", "CCN")
    assert isinstance(second, Failure)


def sd_file(path, structures, mol_3d=True):
    with Chem.SDWriter(str(path)) as writer:
        for smiles, props in structures:
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            if mol_3d:
                rdDistGeom.EmbedMolecule(mol, randomSeed=1)
            for name, value in props.items():
                mol.SetProp(name, value)
            writer.write(mol)
    return path


def sdf_source(path, labels=(), hydrogens=False):
    return SdfSource(path, labels=[parse_label(x) for x in labels], build=BuildOptions(hydrogens=hydrogens), splitter=RANDOM)


def test_sd_file_keeps_structures_and_labels(tmp_path):
    path = sd_file(tmp_path / "a.sdf", [("CCO", {"gap": "1.25"}), ("CC#N", {})])
    truth = list(Chem.SDMolSupplier(str(path), removeHs=False))
    first, second = parsed(sdf_source(path, ["gap"]))
    assert first.labels.tolist() == [1.25]
    assert np.isnan(second.labels[0])
    np.testing.assert_allclose(first.coordinates[0], truth[0].GetConformer().GetPositions()[:3], atol=1e-4)
    full = parsed(sdf_source(path, hydrogens=True))[0]
    assert full.num_atoms == 9
    np.testing.assert_allclose(full.coordinates[0], truth[0].GetConformer().GetPositions(), atol=1e-4)


def test_sd_file_without_structures_and_without_hydrogens(tmp_path):
    path = sd_file(tmp_path / "a.sdf", [("CCO", {})], mol_3d=False)
    assert parsed(sdf_source(path))[0].coordinates is None
    with Chem.SDWriter(str(tmp_path / "b.sdf")) as writer:
        writer.write(Chem.RemoveHs(next(Chem.SDMolSupplier(str(sd_file(tmp_path / "c.sdf", [("CCO", {})])), removeHs=False))))
    assert parsed(sdf_source(tmp_path / "b.sdf"))[0].coordinates.shape == (1, 3, 3)
    assert "lacks hydrogens" in parsed(sdf_source(tmp_path / "b.sdf", hydrogens=True))[0].reason


def test_sd_records_are_cut_at_their_end_marks(tmp_path):
    """Records that span read blocks, Windows line ends, empty titles, no last end mark: as RDKit counts them."""
    path = sd_file(tmp_path / "a.sdf", [("C" * (1 + i % 40), {"k": str(i)}) for i in range(600)], mol_3d=False)
    assert path.stat().st_size > 2 << 20  # more than two blocks
    records = list(sdf_records(path))
    assert [sdf_items(r)["k"][0] for r in records] == [str(i) for i in range(600)]
    assert [sdf_items(r)["k"][0] for r in sdf_records(path, 555)] == [str(i) for i in range(555, 600)]
    windows = tmp_path / "b.sdf"
    windows.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").rstrip().removesuffix(b"$$$$"))
    assert list(sdf_records(windows))[:-1] == records[:-1]
    assert sum(1 for _ in sdf_records(windows)) == 600


def test_records_without_atoms_or_content_say_so(tmp_path):
    path = sd_file(tmp_path / "a.sdf", [("CCO", {})])
    path.write_text(f"{path.read_text()}\n$$$$\n{Chem.MolToMolBlock(Chem.Mol())}$$$$\n")
    first, blank, empty = parsed(sdf_source(path))
    assert first.num_atoms == 3
    assert blank.reason == "the record is empty"
    assert empty.reason.startswith("0 atoms; a molecule must have 1 to ")


def test_sd_messages(tmp_path):
    (tmp_path / "a.sdf").write_text("smiles,y\nC,1\n")
    with pytest.raises(UserError, match="not an SD file"):
        sdf_source(tmp_path / "a.sdf")
    path = sd_file(tmp_path / "b.sdf", [("CCO", {"gap": "1"})])
    with pytest.raises(UserError, match="no data item 'homo'; the first record has: gap"):
        sdf_source(path, ["homo"])
    path.write_text(path.read_text().replace(" C ", " Q?"))
    assert isinstance(parsed(sdf_source(path))[0], Failure)


def moved(path, change):
    """The SD file with the coordinates of every record changed."""
    mols = list(Chem.SDMolSupplier(str(path), removeHs=False))
    with Chem.SDWriter(str(path)) as writer:
        for mol in mols:
            for i, place in enumerate(change(mol.GetConformer().GetPositions()).tolist()):
                mol.GetConformer().SetAtomPosition(i, place)
            mol.GetConformer().Set3D(True)
            writer.write(mol)
    return path


@pytest.mark.parametrize("hydrogens", [True, False])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("zero", np.zeros_like),
        ("one point", lambda xyz: np.full_like(xyz, 2.5)),
        ("bohr", lambda xyz: xyz / 0.529177),
        ("ten times", lambda xyz: xyz * 10),
        ("reordered", lambda xyz: np.roll(xyz, 1, axis=0)),
        ("flat", lambda xyz: xyz * [1, 1, 0]),
    ],
)
def test_sd_structures_that_cannot_be_are_left_out_with_a_note(tmp_path, name, change, hydrogens):
    path = moved(sd_file(tmp_path / "a.sdf", [("CC(C)CO", {}), ("O", {}), ("CCc1ccncc1", {})]), change)
    found = parsed(sdf_source(path, hydrogens=hydrogens))
    for graph in found:
        if name == "flat" and graph.num_atoms <= 3:  # water was flat before
            continue
        assert graph.coordinates is None
        assert graph.note.startswith("no conformer: ")
    assert [graph.num_atoms for graph in found] == ([15, 3, 17] if hydrogens else [5, 1, 8])


def test_flat_molecules_of_sd_files_keep_their_structure(tmp_path):
    """Whether the file calls them 3D or, with all hydrogens there, says nothing; drawings it may call what it likes."""

    def flat(xyz):
        turned = (xyz - xyz.mean(axis=0)) @ np.linalg.svd(xyz - xyz.mean(axis=0))[2].T
        return turned * [1, 1, 0]

    path = moved(sd_file(tmp_path / "a.sdf", [("c1ccccc1", {}), ("O", {}), ("OC=O", {})]), flat)
    untagged = tmp_path / "b.sdf"
    untagged.write_text(path.read_text().replace("          3D", "            "))
    drawn = tmp_path / "c.sdf"
    sd_file(drawn, [("c1ccccc1", {}), ("O", {}), ("OC=O", {})], mol_3d=False)
    mols = list(Chem.SDMolSupplier(str(drawn), removeHs=False))
    with Chem.SDWriter(str(drawn)) as writer:
        for mol in mols:
            rdDepictor.Compute2DCoords(mol)
            writer.write(mol)
    called_3d = tmp_path / "d.sdf"
    called_3d.write_text(drawn.read_text().replace("          2D", "          3D"))
    assert called_3d.read_text() != drawn.read_text()
    for file, kept in ((path, True), (untagged, True), (drawn, False), (called_3d, False)):
        for hydrogens in (True, False):
            for graph in parsed(sdf_source(file, hydrogens=hydrogens)):
                assert (graph.coordinates is not None) == kept, (file.name, graph.smiles)
                assert (graph.note is None) == (file is not called_3d)
