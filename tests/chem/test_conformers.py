"""ETKDG conformers: seeded, limited in time, hydrogens dropped where not asked for."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from moleblend_fs.chem.conformers import ConformerOptions, embed
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles


def graph(smiles, hydrogens=False, **options):
    return graph_from_smiles(smiles, labels=np.zeros(0), options=BuildOptions(hydrogens=hydrogens, conformers=ConformerOptions(**options)))


def test_same_seed_same_structures_other_seed_others():
    first, second, other = (graph("CCOC(=O)CC", count=3, seed=seed) for seed in (1, 1, 2))
    assert first.coordinates.shape == (3, 7, 3)
    assert first.coordinates.dtype == np.float32
    np.testing.assert_array_equal(first.coordinates, second.coordinates)
    assert np.abs(first.coordinates - other.coordinates).max() > 0.1
    assert np.abs(first.coordinates[0] - first.coordinates[1]).max() > 0.1


def test_bonds_have_their_lengths_and_hydrogens_are_kept_on_demand():
    full = graph("CCO", hydrogens=True, count=1)
    assert full.coordinates.shape == (1, 9, 3)
    length = np.linalg.norm(full.coordinates[0][full.bonds[:, 0]] - full.coordinates[0][full.bonds[:, 1]], axis=1)
    hydrogen = (full.atom_features[full.bonds, 0] == 0).any(axis=1)
    # MMFF94: C-C and C-O 1.40 to 1.53, X-H 0.96 to 1.10 Angstrom.
    assert ((length[~hydrogen] > 1.35) & (length[~hydrogen] < 1.6)).all()
    assert ((length[hydrogen] > 0.9) & (length[hydrogen] < 1.15)).all()
    plain = graph("CCO", count=1)
    np.testing.assert_array_equal(plain.coordinates[0], full.coordinates[0, :3])


@pytest.mark.parametrize("smiles", ["C", "[Na+].[Cl-]", "[H][H]", "[He]", "C.C"])
def test_tiny_molecules_and_salts(smiles):
    assert graph(smiles, count=2).coordinates is not None


def test_impossible_molecule_stays_as_2d_with_a_note():
    silence_rdkit()
    result = graph("C[C@]12C[C@@]1(C)C2", count=2, timeout=300)  # a bridge on opposite faces
    assert result.coordinates is None
    assert result.note == "no conformer: embedding failed"


def test_time_limit():
    silence_rdkit()
    smiles = "N1CCC(C1)C(=O)" * 12 + "O"
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    made = embed(mol, smiles, ConformerOptions(count=11, timeout=1))
    # All of them take ten times as long.
    assert isinstance(made, str) or len(made.coordinates) < 11


def energy(mol, xyz):
    """MMFF94's, in kcal/mol."""
    mol = Chem.Mol(mol)
    for i, place in enumerate(xyz.astype(float).tolist()):
        mol.GetConformer().SetAtomPosition(i, place)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    return rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties).CalcEnergy()


@pytest.mark.parametrize(
    "smiles", ["CCOC(=O)CC", "CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CN1CCN(CC1)c1ccc2nc(N)sc2c1", "OCC1OC(O)C(O)C(O)C1O"]
)
def test_conformers_are_minima_as_rdkits_own_call_finds_them(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    made = embed(mol, smiles, ConformerOptions(count=3, seed=5))
    assert made.converged == len(made.coordinates) == 3
    raw = embed(mol, smiles, ConformerOptions(count=3, seed=5, steps=0))
    assert raw.converged == 0
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    for ours, start in zip(made.coordinates, raw.coordinates, strict=True):
        for i, place in enumerate(start.astype(float).tolist()):
            mol.GetConformer().SetAtomPosition(i, place)
        assert rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000) == 0
        theirs = energy(mol, mol.GetConformer().GetPositions())
        # float32 coordinates and starts that differ by its rounding; ten restarts of 20 steps stay 0.1 to 3 kcal/mol above.
        assert energy(mol, ours) == pytest.approx(theirs, abs=0.01)
        assert energy(mol, start) > theirs + 1
    few = embed(mol, smiles, ConformerOptions(count=3, seed=5, steps=20))
    assert few.converged == 0


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "C.C", "CC(=O)[O-].[NH3+]C", "CCO.CCO"])
def test_fragments_do_not_lie_on_each_other(smiles):
    found = graph(smiles, hydrogens=True, count=2)
    assert found.note is None
    fragments = Chem.GetMolFrags(Chem.AddHs(Chem.MolFromSmiles(smiles)))
    for xyz in found.coordinates:
        assert np.linalg.norm(xyz[list(fragments[0]), None] - xyz[None, list(fragments[1])], axis=2).min() > 1.3


@pytest.mark.parametrize(("name", "value"), [("count", 12), ("count", -1), ("timeout", 0), ("steps", -1)])
def test_options_are_checked(name, value):
    with pytest.raises(ValueError, match="--conformer"):
        ConformerOptions(**{name: value})
