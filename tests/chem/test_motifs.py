"""Motifs: cuts that are known, junction trees, trees of every molecule, whatever is explicit and in whatever order."""

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.chem.motifs import motif_tree
from tests.model.molecules import AWKWARD, ORDINARY


def tree(smiles, *, hydrogens=False, order=None):
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    mol = mol if order is None else Chem.RenumberAtoms(mol, order)
    graph = graph_from_mol(mol, smiles=smiles, labels=np.zeros(0), coordinates=None)
    return motif_tree(graph.atom_features, graph.bonds, graph.bond_classes)


@pytest.mark.parametrize(
    ("smiles", "atoms", "parents", "names"),
    [
        # N,N-diethylnicotinamide: BRICS cuts C-N and C-ring; N and the carbonyl carbon branch, so that all their bonds are cut.
        (
            "CCN(CC)C(=O)c1cccnc1",
            [[0, 1], [2], [3, 4], [5], [6], [7, 8, 9, 10, 11, 12]],
            [-1, 0, 1, 1, 3, 3],
            ["CC", "N", "CC", "C", "O", "c1ccncc1"],
        ),
        # A pyrrole whose nitrogen was cut off has a hydrogen there instead.
        (
            "Cn1cccc1CC(=O)OCC",
            [[0], [1, 2, 3, 4, 5], [6], [7], [8], [9], [10, 11]],
            [-1, 0, 1, 2, 3, 3, 5],
            ["C", "c1cc[nH]c1", "C", "C", "O", "O", "CC"],
        ),
        # BRICS cuts nothing: the junction tree, in which motifs share atoms; a branching atom is a motif.
        ("CCO", [[0, 1], [1, 2]], [-1, 0], ["CC", "CO"]),
        ("CC(C)(C)C", [[0, 1], [1], [1, 2], [1, 3], [1, 4]], [-1, 0, 1, 1, 1], ["CC", "C", "CC", "CC", "CC"]),
        ("C1CC12CC2", [[0, 1, 2], [2, 3, 4]], [-1, 0], ["C1CC1", "C1CC1"]),
        # Fused rings share two atoms, and are two motifs; bridged rings share more, and are one.
        ("c1ccc2ccccc2c1", [[0, 1, 2, 3, 8, 9], [3, 4, 5, 6, 7, 8]], [-1, 0], ["c1ccccc1", "c1ccccc1"]),
        ("C1CC2CCC1C2", [[0, 1, 2, 3, 4, 5, 6]], [-1], ["C1CC2CCC1C2"]),
        # One cut: the junction tree.
        ("Cc1ccccc1", [[0, 1], [1, 2, 3, 4, 5, 6]], [-1, 0], ["CC", "c1ccccc1"]),
        ("C", [[0]], [-1], ["C"]),
        ("[Na+].[Cl-]", [[0], [1]], [-1, 0], ["[Na+]", "[Cl-]"]),
        ("[H][H]", [[0, 1]], [-1], ["[H][H]"]),
    ],
)
def test_known_cuts(smiles, atoms, parents, names):
    assert tree(smiles) == (atoms, parents, names)


SMILES = (*ORDINARY, *AWKWARD, "CN1CCC[C@H]1c1cccnc1", "Cn1cccc1CC(=O)OCC", "O=C1[C@@H]2C=C[C@@H](C=CC2)C1(c1ccccc1)c1ccccc1")


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("smiles", SMILES)
def test_every_molecule_is_a_tree_of_its_motifs(smiles, hydrogens):
    """All atoms are in a motif; parents come first, children of a motif after it and all that is below; children share or touch an atom."""
    found, mol = tree(smiles, hydrogens=hydrogens), Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    assert sorted({a for motif in found.atoms for a in motif}) == list(range(mol.GetNumAtoms()))
    assert len(found.atoms) == len(found.parents) == len(found.names)
    assert 0 in found.atoms[0]
    path = []
    for motif, parent in enumerate(found.parents):
        while path and path[-1] != parent:
            path.pop()
        assert bool(path) == (motif > 0), "a depth-first walk"
        path.append(motif)
        near = {n.GetIdx() for a in found.atoms[motif] for n in mol.GetAtomWithIdx(a).GetNeighbors()} | set(found.atoms[motif])
        assert parent < 0 or near & set(found.atoms[parent]) or "." in smiles


@pytest.mark.parametrize("smiles", SMILES)
def test_hydrogens_and_order_change_nothing(smiles):
    """The same heavy atoms and names with explicit hydrogens; the same motifs in another order of atoms, where BRICS cuts."""
    plain, explicit = tree(smiles), tree(smiles, hydrogens=True)
    heavy = Chem.MolFromSmiles(smiles).GetNumAtoms()
    assert [[a for a in motif if a < heavy] for motif in explicit.atoms] == plain.atoms
    assert explicit[1:] == plain[1:]
    order = np.random.default_rng(0).permutation(heavy).tolist()
    moved = tree(smiles, order=order)
    assert sorted((sorted(order[a] for a in motif), name) for motif, name in zip(moved.atoms, moved.names, strict=True)) == sorted(
        zip(plain.atoms, plain.names, strict=True)
    )
