"""Pictures of molecules: drawn from their SMILES, with stereochemistry, atoms numbered as the store numbers them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor

from moleblend_fs.data.graph import MolecularGraph, bond_class_features
from moleblend_fs.errors import UserError

BOND_TYPES = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
FORMAL_CHARGE, NUM_HYDROGENS, AROMATIC = 3, 4, 7
"""Columns of OGB's atom features; a charge is stored plus 5, and the last value of a feature stands for "misc"."""
MOST_MATCHED = 200
"""Atoms of molecules whose SMILES is laid on the stored atoms; larger ones are drawn as they are stored."""
LONGEST_SMILES = 2000
"""Characters of a SMILES that a picture is made of."""
Colour = tuple[float, float, float]
LOW, HIGH = (0.34, 0.63, 0.86), (0.95, 0.52, 0.24)
"""Colours of what lowers and what raises a prediction, blue and orange: those who are colour-blind tell them apart, too."""


def rdkit_drawing() -> Any:
    """RDKit's drawing, imported where something is drawn: it needs a library of X that servers may lack.

    Raises:
        UserError: it cannot be imported, and why.
    """
    try:
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:
        raise UserError(f"RDKit cannot draw molecules here: {error}; on Debian and Ubuntu: apt-get install libxrender1 libxext6") from error
    return rdMolDraw2D


def molecule_from_graph(graph: MolecularGraph) -> Chem.Mol:
    """An unsanitised molecule with the graph's atoms in the graph's order, good for drawing; stereochemistry is left out."""
    return molecule_from_arrays(graph.atom_features, graph.bonds, graph.bond_classes)


def molecule_from_arrays(atom_features: np.ndarray, bonds: np.ndarray, bond_classes: np.ndarray) -> Chem.Mol:
    """The same from what a `MolecularGraph` has of atoms and bonds."""
    molecule = Chem.RWMol()
    for features in atom_features.astype(int).tolist():
        number = features[0] + 1
        atom = Chem.Atom(number if number <= 118 else 0)
        atom.SetFormalCharge(features[FORMAL_CHARGE] - 5 if features[FORMAL_CHARGE] <= 10 else 0)
        atom.SetNumExplicitHs(features[NUM_HYDROGENS] if features[NUM_HYDROGENS] <= 8 else 0)
        atom.SetNoImplicit(True)
        atom.SetIsAromatic(bool(features[AROMATIC]))
        molecule.AddAtom(atom)
    types = bond_class_features()[bond_classes.astype(int) - 1, 0].tolist()
    for (begin, end), kind in zip(bonds.astype(int).tolist(), types, strict=True):
        molecule.AddBond(begin, end, BOND_TYPES[kind] if kind < len(BOND_TYPES) else Chem.BondType.UNSPECIFIED)
    result = molecule.GetMol()
    result.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(result)
    # Which atoms are linear: without it triple bonds are drawn bent.
    Chem.SetConjugation(result)
    Chem.SetHybridization(result)
    return result


def read_smiles(smiles: str, *, hydrogens: bool = False) -> Chem.Mol | None:
    """A sanitised molecule of a SMILES, hydrogens explicit on request; None where RDKit cannot read it, or it is beyond drawing."""
    if not smiles.strip() or len(smiles) > LONGEST_SMILES or "\0" in smiles:
        return None
    with rdBase.BlockLogs():
        try:
            molecule = Chem.MolFromSmiles(smiles.encode(errors="replace").decode())
            return Chem.AddHs(molecule) if hydrogens and molecule is not None else molecule
        except (ValueError, RuntimeError):
            return None


def with_stereo(stored: Chem.Mol, smiles: str) -> Chem.Mol | None:
    """The SMILES's molecule, stereochemistry and all, with its atoms in the order of the stored ones; None where it is another molecule."""
    hydrogens = any(atom.GetAtomicNum() == 1 for atom in stored.GetAtoms())
    named = read_smiles(smiles, hydrogens=hydrogens)
    sizes = (stored.GetNumAtoms(), stored.GetNumBonds())
    if named is None or (named.GetNumAtoms(), named.GetNumBonds()) != sizes or sizes[0] > MOST_MATCHED:
        return None
    order = named.GetSubstructMatch(stored)
    return Chem.RenumberAtoms(named, list(order)) if len(order) == sizes[0] else None


def drawing(graph: MolecularGraph, *, numbers: bool = False) -> Chem.Mol:
    """The molecule with RDKit's 2D coordinates and wedged bonds; atoms are all the stored ones, in their order, where they are numbered.

    Without numbers explicit hydrogens are left out, as chemists do.
    """
    stored = molecule_from_graph(graph)
    molecule = with_stereo(stored, graph.smiles)
    if molecule is None:
        return laid_out(stored, chiral_hydrogens=False)
    return laid_out(molecule if numbers else Chem.RemoveHs(molecule), chiral_hydrogens=not numbers)


def laid_out(molecule: Chem.Mol, *, chiral_hydrogens: bool = True) -> Chem.Mol:
    """A copy with 2D coordinates, Kekulé bonds where they can be told, and wedges."""
    molecule = Chem.Mol(molecule)
    rdDepictor.SetPreferCoordGen(False)
    rdDepictor.Compute2DCoords(molecule)
    prepare = rdkit_drawing().PrepareMolForDrawing
    with rdBase.BlockLogs():
        try:
            return prepare(molecule, kekulize=True, addChiralHs=chiral_hydrogens, wedgeBonds=True, forceCoords=False)
        except (ValueError, RuntimeError):
            return prepare(molecule, kekulize=False, addChiralHs=False, wedgeBonds=True, forceCoords=False)


def molecule_svg(graph: MolecularGraph, *, width: int = 240, height: int = 180, numbers: bool = False) -> str:
    """The molecule as an SVG element of width x height pixels, for use inside HTML.

    Args:
        graph: the molecule.
        width: of the picture.
        height: of the picture.
        numbers: whether to write the atoms' indices (from 0) beside them.
    """
    return as_svg(drawing(graph, numbers=numbers), graph.smiles, width=width, height=height, numbers=numbers)


def smiles_svg(smiles: str, *, width: int = 240, height: int = 180) -> str | None:
    """The molecule of a SMILES as an SVG element; None where there is no picture of it."""
    molecule = read_smiles(smiles)
    return None if molecule is None else as_svg(laid_out(molecule), smiles, width=width, height=height)


def as_svg(
    molecule: Chem.Mol, name: str, *, width: int, height: int, numbers: bool = False, shades: Mapping[int, Colour] | None = None
) -> str:
    """A molecule that was laid out, as an SVG element with a name for those who do not see it.

    Args:
        shades: atom -> colour of the disc behind it.
    """
    drawer = rdkit_drawing().MolDraw2DSVG(width, height)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    options.addAtomIndices = numbers
    options.prepareMolsBeforeDrawing = False
    options.fixedBondLength = width / 9
    options.padding = 0.08
    options.atomHighlightsAreCircles, options.fillHighlights = True, True
    drawer.DrawMolecule(molecule, highlightAtoms=list(shades or {}), highlightAtomColors=dict(shades or {}), highlightBonds=[])
    drawer.FinishDrawing()
    svg = drawer.GetDrawingText()
    name = "".join(c if c.isprintable() else "\ufffd" for c in name[:300].encode(errors="replace").decode())
    head = f'<svg role="img" aria-label={quoteattr("molecule " + name)} class="molecule"'
    start = svg.index("<svg") + len("<svg")
    body_at = svg.index(">", start) + 1
    return f"{head}{svg[start:body_at]}<title>{escape(name)}</title>{svg[body_at:]}"


def coloured_svg(graph: MolecularGraph, shares: Sequence[float], titles: Sequence[str], *, width: int = 360, height: int = 300) -> str:
    """The molecule with its atoms' indices, and behind each atom a disc whose colour says its share.

    Args:
        shares: of each atom, -1 (`LOW`) to 1 (`HIGH`); white for 0. titles: what to say of each atom where the mouse rests.
    """
    molecule = drawing(graph, numbers=True)
    shades = {i: mixed(share) for i, share in enumerate(shares)}
    svg = as_svg(molecule, graph.smiles, width=width, height=height, numbers=True, shades=shades)
    for i, title in enumerate(titles):
        svg = re.sub(rf"(<ellipse [^>]*class='atom-{i}'[^>]*?)/>", rf"\1><title>{escape(title)}</title></ellipse>", svg, count=1)
    return svg


def mixed(share: float) -> Colour:
    """White at 0, `LOW` at -1, `HIGH` at 1."""
    end, weight = (HIGH if share > 0 else LOW), min(1.0, abs(share))
    red, green, blue = (1 - weight * (1 - part) for part in end)
    return red, green, blue
