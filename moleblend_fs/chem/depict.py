"""Pictures of stored molecules, with atoms numbered as the store numbers them."""

from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from moleblend_fs.data.graph import MolecularGraph, bond_class_features

BOND_TYPES = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
FORMAL_CHARGE, NUM_HYDROGENS, AROMATIC = 3, 4, 7
"""Columns of OGB's atom features; a charge is stored plus 5, and the last value of a feature stands for "misc"."""


def molecule_from_graph(graph: MolecularGraph) -> Chem.Mol:
    """An unsanitised molecule with the graph's atoms in the graph's order, good for drawing; stereochemistry is left out."""
    molecule = Chem.RWMol()
    for features in graph.atom_features.astype(int).tolist():
        number = features[0] + 1
        atom = Chem.Atom(number if number <= 118 else 0)
        atom.SetFormalCharge(features[FORMAL_CHARGE] - 5 if features[FORMAL_CHARGE] <= 10 else 0)
        atom.SetNumExplicitHs(features[NUM_HYDROGENS] if features[NUM_HYDROGENS] <= 8 else 0)
        atom.SetNoImplicit(True)
        atom.SetIsAromatic(bool(features[AROMATIC]))
        molecule.AddAtom(atom)
    types = bond_class_features()[graph.bond_classes.astype(int) - 1, 0].tolist()
    for (begin, end), kind in zip(graph.bonds.astype(int).tolist(), types, strict=True):
        molecule.AddBond(begin, end, BOND_TYPES[kind] if kind < len(BOND_TYPES) else Chem.BondType.UNSPECIFIED)
    result = molecule.GetMol()
    result.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(result)
    return result


def molecule_svg(graph: MolecularGraph, *, width: int = 240, height: int = 180, numbers: bool = False) -> str:
    """The molecule as an SVG element of width x height pixels, for use inside HTML.

    Args:
        graph: the molecule.
        width: of the picture.
        height: of the picture.
        numbers: whether to write the atoms' indices (from 0) beside them.
    """
    molecule = molecule_from_graph(graph)
    rdDepictor.SetPreferCoordGen(False)
    rdDepictor.Compute2DCoords(molecule)
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    options.addAtomIndices = numbers
    options.prepareMolsBeforeDrawing = False
    options.fixedBondLength = width / 9
    options.padding = 0.08
    drawer.DrawMolecule(molecule)
    drawer.FinishDrawing()
    svg = drawer.GetDrawingText()
    return svg[svg.index("<svg") :]
