"""SMILES -> graph in one step, with what a source may ask for: hydrogens, scaffold, conformers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.conformer_cache import embed_once
from moleblend_fs.chem.conformers import ConformerOptions, Embedded
from moleblend_fs.chem.mol_to_graph import MAX_ATOMS, graph_from_mol, size_failure
from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.chem.scaffold import murcko_scaffold
from moleblend_fs.data.graph import Failure, MolecularGraph

NO_CONFORMERS = ConformerOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What to make of a SMILES.

    Attributes:
        hydrogens: whether hydrogens are atoms of the graph.
        scaffold: Bemis-Murcko scaffold to keep for a scaffold split: None, "plain", or "chiral" (with stereochemistry).
        conformers: structures to make.
        max_atoms: molecules of more atoms, as they would be stored, are failures.
        conformer_cache: folder of structures that earlier runs made, which changes no result; None for none.
        keyed: whether equal molecules are to be told, see `MolecularGraph.key`.
    """

    hydrogens: bool = False
    scaffold: str | None = None
    conformers: ConformerOptions = NO_CONFORMERS
    max_atoms: int = MAX_ATOMS
    conformer_cache: Path | None = None
    keyed: bool = True


def scaffold_of(mol: Chem.Mol, options: BuildOptions) -> str | None:
    """The scaffold that the options ask for."""
    return None if options.scaffold is None else murcko_scaffold(mol, chirality=options.scaffold == "chiral")


def graph_from_smiles(smiles: str, *, labels: np.ndarray, options: BuildOptions, split: str | None = None) -> MolecularGraph | Failure:
    """A molecule's graph; atoms in the order of the SMILES, hydrogens (where asked for) after them.

    A molecule that cannot be embedded stays, without coordinates and with a note that says why.
    """
    mol = parse_smiles(smiles)
    if isinstance(mol, Failure):
        return mol
    if (too_large := size_failure(mol, smiles, options.max_atoms)) is not None:  # before anything that takes long
        return too_large
    kept, full, note = mol, mol, None
    made: Embedded | None = None
    if options.hydrogens or options.conformers.count:
        full = Chem.AddHs(mol)
        kept = full if options.hydrogens else mol
    if options.conformers.count and mol.GetNumAtoms():
        embedded = embed_once(full, smiles, options.conformers, options.conformer_cache)
        if isinstance(embedded, str):
            note = f"no conformer: {embedded}"
        else:
            made = embedded
    return graph_from_mol(
        kept,
        smiles=smiles,
        labels=labels,
        coordinates=None if made is None else made.coordinates,
        converged=None if made is None else made.converged,
        measured=full,
        scaffold=scaffold_of(mol, options),
        split=split,
        note=note,
        max_atoms=options.max_atoms,
        keyed=options.keyed,
    )
