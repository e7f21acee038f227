"""Which coordinates can be a molecule's: real structures all pass, each kind of damage is found in every conformer."""

import itertools

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom, rdForceFieldHelpers

from moleblend_fs.chem.geometry import DRAWN, Geometry, check_conformers
from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.sources.qm9 import open_qm9

SMILES = ("CC(C)CO", "CC(=O)Nc1ccccc1", "C[C@H](N)C(=O)O", "FC(F)(F)C#N", "c1ccc2ccccc2c1", "CS(=O)(=O)N", "[NH3+]CC([O-])=O", "ClC=CBr")
FLAT = (
    "c1ccccc1",
    "O",
    "C=C",
    "C=O",
    "OC=O",
    "c1ccoc1",
    "c1ccsc1",
    "c1ccncc1",
    "NC=O",
    "C#C",
    "C#N",
    "O=C=O",
    "c1ccc2[nH]ccc2c1",
    "C=CC=C",
    "S",
)


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=3) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
    return mol, mol.GetConformer().GetPositions()


def flattened(xyz):
    """Turned so that its plane is z = 0, exactly."""
    centred = xyz - xyz.mean(axis=0)
    turned = centred @ np.linalg.svd(centred)[2].T
    assert np.abs(turned[:, 2]).max() < 0.05
    turned[:, 2] = 0
    return turned


DAMAGE = {
    "nan": lambda xyz: np.where(np.arange(len(xyz))[:, None] == 1, np.nan, xyz),
    "inf": lambda xyz: np.where(np.arange(len(xyz))[:, None] == 1, np.inf, xyz),
    "too large for float32": lambda xyz: np.where(np.arange(len(xyz))[:, None] == 1, 1e300, xyz),
    "zero": np.zeros_like,
    "one point": lambda xyz: np.full_like(xyz, 1.5),
    "bohr": lambda xyz: xyz / 0.529177,
    "bohr taken for Angstrom before": lambda xyz: xyz * 0.529177,
    "nanometres": lambda xyz: xyz * 0.1,
    "ten times": lambda xyz: xyz * 10,
    "reordered": lambda xyz: xyz[np.roll(np.arange(len(xyz)), 1)],
    "reversed": lambda xyz: xyz[::-1],
    "coincident": lambda xyz: np.where(np.arange(len(xyz))[:, None] == len(xyz) - 1, xyz[0] + 0.01, xyz),
    "exploded": lambda xyz: np.where(np.arange(len(xyz))[:, None] == 0, xyz + 50, xyz),
    "far off": lambda xyz: xyz + 1e8,
    "squeezed": lambda xyz: xyz * [1, 1, 0.003],
}


@pytest.mark.parametrize("smiles", SMILES)
def test_each_damage_is_found_and_the_structure_itself_is_right_anywhere(smiles):
    mol, xyz = embedded(smiles)
    geometry = Geometry(mol)
    for good in (xyz, xyz + 100, xyz[:, ::-1] * -1, xyz + np.random.default_rng(0).normal(0, 0.02, xyz.shape)):
        assert geometry.problem(good.astype(np.float32)) is None
    planar = smiles in ("c1ccc2ccccc2c1", "ClC=CBr")
    for name, damage in DAMAGE.items():
        if name == "squeezed" and planar:
            continue
        kept, reason = check_conformers(mol, damage(xyz)[None])
        assert kept is None, name
        assert reason.startswith("no conformer: "), name


def test_every_conformer_is_looked_at_and_the_rest_stays():
    mol, xyz = embedded("CC(C)CO")
    damaged = [damage(xyz) for damage in DAMAGE.values()]
    kept, reason = check_conformers(mol, np.stack([xyz, *damaged, xyz + 1]))
    np.testing.assert_array_equal(kept, np.stack([xyz, xyz + 1]).astype(np.float32))
    count = len(DAMAGE)
    assert reason == f"{count} of {count + 2} conformers left out; of number 2: a coordinate is not a number, or too large for one"
    graph = graph_from_mol(mol, smiles="CC(C)CO", labels=np.zeros(0), coordinates=np.stack([xyz, *damaged]))
    assert (graph.coordinates.shape[0], graph.note) == (1, reason.replace(f"of {count + 2}", f"of {count + 1}"))
    graph = graph_from_mol(mol, smiles="CC(C)CO", labels=np.zeros(0), coordinates=np.stack(damaged))
    assert graph.coordinates is None


@pytest.mark.parametrize("smiles", FLAT)
def test_flat_molecules_are_told_from_drawings(smiles):
    """With and without their hydrogens; drawings at the lengths of RDKit, of others' files, and by CoordGen."""
    mol, xyz = embedded(smiles)
    for kept in (mol, Chem.RemoveHs(mol)):
        count = kept.GetNumAtoms()
        if count < 3:
            continue
        real = flattened(xyz)[:count] if kept is mol else flattened(xyz[:count])
        assert Geometry(kept).problem(real.astype(np.float32)) is None
        for coordgen in (False, True):
            rdDepictor.SetPreferCoordGen(coordgen)
            drawing = Chem.Mol(kept)
            rdDepictor.Compute2DCoords(drawing)
            drawn = drawing.GetConformer().GetPositions()
            for scale in (1.0, 0.55, 0.825 / 1.5, 2.0):
                assert Geometry(kept).problem((drawn * scale).astype(np.float32)) is not None
    rdDepictor.SetPreferCoordGen(False)


@pytest.mark.parametrize(
    ("smiles", "length"),
    [("FB(F)F", 1.307), ("O=S(=O)=O", 1.42), ("[O-][N+](=O)[O-]", 1.25), ("[O-]C(=O)[O-]", 1.29), ("ClB(Cl)Cl", 1.742)],
)
def test_trigonal_molecules_of_measured_lengths(smiles, length):
    mol = Chem.MolFromSmiles(smiles)
    centre = next(atom.GetIdx() for atom in mol.GetAtoms() if atom.GetDegree() == 3)
    outer = [i for i in range(4) if i != centre]
    xyz = np.zeros((4, 3), dtype=np.float32)
    xyz[outer, 0], xyz[outer, 1] = np.cos([0, 2 * np.pi / 3, 4 * np.pi / 3]), np.sin([0, 2 * np.pi / 3, 4 * np.pi / 3])
    assert Geometry(mol).problem(xyz * length) is None
    assert Geometry(mol).problem(xyz * 1.5) == DRAWN


MEASURED = {
    "O=[Se]=O": [[0, 0, 0], [1.608, 0, 0], [-0.649, 1.471, 0]],
    "[SeH2]": [[0, 0, 0], [1.46, 0, 0], [-0.0255, 1.4598, 0]],
    "[AlH3]": [[0, 0, 0], [1.58, 0, 0], [-0.79, 1.3683, 0], [-0.79, -1.3683, 0]],
    "Cl[Be]Cl": [[0, 0, 0], [1.79, 0, 0], [-1.79, 0, 0]],
    "F[Ca]F": [[0, 0, 0], [2.02, 0, 0], [-2.02, 0, 0]],
    "[CH3]": [[0, 0, 0], [1.079, 0, 0], [-0.5395, 0.9344, 0], [-0.5395, -0.9344, 0]],
}
"""Flat molecules of other elements, and a radical, the central atom first; Angstrom, as measured (CRC Handbook)."""


@pytest.mark.parametrize("smiles", MEASURED)
def test_small_flat_molecules_of_other_elements(smiles):
    """Their structures stay; ten times as large, or reordered so that bonds are far too long, they do not."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    centre = next(atom.GetIdx() for atom in mol.GetAtoms() if atom.GetDegree() > 1)
    order = [centre, *(i for i in range(mol.GetNumAtoms()) if i != centre)]
    xyz = np.zeros((mol.GetNumAtoms(), 3), dtype=np.float32)
    xyz[order] = MEASURED[smiles]
    assert Geometry(mol).problem(xyz) is None
    assert Geometry(mol).problem(10 * xyz) is not None


def test_measured_structures_pass_and_their_drawings_do_not(qm9_sample):
    """Over 500 molecules of QM9 from all of the sample, with their hydrogens and without."""
    source = open_qm9(str(qm9_sample))
    for _, raw in itertools.islice(source.rows(0), 0, 5000, 10):
        mol, xyz = source.structure(raw)
        for hydrogens in (True, False):
            kept = mol if hydrogens else Chem.RemoveHs(mol)
            places = np.arange(mol.GetNumAtoms()) if hydrogens else [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
            geometry = Geometry(kept)
            assert geometry.problem(xyz[places].astype(np.float32)) is None, raw.smiles
            if kept.GetNumAtoms() > 2:
                drawing = Chem.Mol(kept)
                rdDepictor.Compute2DCoords(drawing)
                assert geometry.problem(drawing.GetConformer().GetPositions().astype(np.float32)) is not None, raw.smiles


def test_what_has_no_lengths_is_left_alone():
    """Dummy atoms, single atoms, fragments, metals and hydrogen bonds."""
    xyz = np.array([[0, 0, 0], [1.5, 0, 0], [2.3, 1.2, 0.4]], dtype=np.float32)
    assert Geometry(Chem.MolFromSmiles("*CC")).problem(xyz * 1.0) is None
    assert Geometry(Chem.MolFromSmiles("[He]")).problem(np.zeros((1, 3), dtype=np.float32)) is None
    assert Geometry(Chem.MolFromSmiles("[Na+].[Cl-]")).problem(np.array([[0, 0, 0], [0, 0, 300]], dtype=np.float32)) is None
    assert "apart" in Geometry(Chem.MolFromSmiles("[Na+].[Cl-]")).problem(np.array([[0, 0, 0], [0, 0, 0.3]], dtype=np.float32))
    assert Geometry(Chem.MolFromSmiles("[Ca]O")).problem(np.array([[0, 0, 0], [2.9, 0, 0]], dtype=np.float32)) is None
