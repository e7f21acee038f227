"""Motifs of a molecule and the tree that they form, as MGSSL (Zhang et al. 2021) cuts it.

Cut are the bonds that BRICS cuts, bonds between a ring and what is no ring, and all bonds of chain atoms with more than two neighbours;
what still hangs together is a motif. Where that makes one cut or none, the junction tree is taken instead: rings and bonds, and the
spanning tree of them that shares most atoms. Hydrogens belong to the motif of their neighbour.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS

from moleblend_fs.chem.depict import molecule_from_arrays

MOST_SHARED = 100
"""Weight of an edge of the junction tree that is taken before all others, plus one."""
Edges = list[tuple[int, int]]


class MotifTree(NamedTuple):
    """Motifs in the order of a depth-first walk that begins at the motif with the first atom.

    Attributes:
        atoms: of each motif, ascending; motifs of junction trees share atoms.
        parents: of each motif the one that the walk came from, -1 of the first. Parts of a molecule without a bond between them hang on
            the first motif.
        names: canonical SMILES of each motif without stereochemistry, of its heavy atoms.
    """

    atoms: list[list[int]]
    parents: list[int]
    names: list[str]


def motif_tree(atom_features: np.ndarray, bonds: np.ndarray, bond_classes: np.ndarray) -> MotifTree:
    """The motifs of a molecule from what a `MolecularGraph` has of it."""
    with rdBase.BlockLogs():
        molecule, heavy = _without_hydrogens(molecule_from_arrays(atom_features, bonds, bond_classes))
        motifs, edges = _cut_at_brics_bonds(molecule)
        if len(edges) <= 1:
            motifs, edges = _junction_tree(molecule)
        forms = molecule, _with_single_bonds(molecule)
        names = [_name(forms, motif) for motif in motifs]
    atoms = _with_hydrogens(len(atom_features), bonds, [[heavy[atom] for atom in motif] for motif in motifs], heavy)
    order, parents = _walk(atoms, edges)
    return MotifTree([atoms[motif] for motif in order], parents, [names[motif] for motif in order])


def _without_hydrogens(stored: Chem.Mol) -> tuple[Chem.Mol, list[int]]:
    """The molecule of heavy atoms (and hydrogens that have no heavy neighbour), sanitised where that can be, and their numbers."""
    for atom in stored.GetAtoms():
        atom.SetIntProp("number", atom.GetIdx())
    molecule = Chem.RemoveHs(stored, implicitOnly=False, updateExplicitCount=True, sanitize=False)
    sound = Chem.Mol(molecule)
    if Chem.SanitizeMol(sound, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
        molecule = sound
    return molecule, [atom.GetIntProp("number") for atom in molecule.GetAtoms()]


def _ends(bond: Chem.Bond) -> tuple[int, int]:
    return bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()


def _cut_at_brics_bonds(molecule: Chem.Mol) -> tuple[list[list[int]], Edges]:
    """Motifs that share no atom, and the bonds between them; no edge where BRICS cuts nothing."""
    cut = {frozenset(ends) for ends, _ in BRICS.FindBRICSBonds(molecule)}
    if not cut:
        return [], []
    for bond in molecule.GetBonds():
        ends = [molecule.GetAtomWithIdx(atom) for atom in _ends(bond)]
        in_ring = [atom.IsInRing() for atom in ends]
        branching = any(not ring and atom.GetDegree() > 2 for atom, ring in zip(ends, in_ring, strict=True))
        if in_ring[0] != in_ring[1] or branching:
            cut.add(frozenset(_ends(bond)))
    bonds = [_ends(bond) for bond in molecule.GetBonds()]
    motif_of = _parts(molecule.GetNumAtoms(), [ends for ends in bonds if frozenset(ends) not in cut])
    motifs: list[list[int]] = [[] for _ in range(max(motif_of) + 1)]
    for atom, motif in enumerate(motif_of):
        motifs[motif].append(atom)
    return motifs, [(motif_of[u], motif_of[v]) for u, v in bonds if frozenset((u, v)) in cut]


def _spanning_tree(count: int, pairs: Iterable[tuple[int, int]]) -> Edges:
    """Of `count` things the pairs, in their order, that join what did not hang together before."""
    leader = list(range(count))

    def of(thing: int) -> int:
        while leader[thing] != thing:
            leader[thing] = leader[leader[thing]]
            thing = leader[thing]
        return thing

    taken: Edges = []
    for u, v in pairs:
        if of(u) != of(v):
            leader[of(v)] = of(u)
            taken.append((u, v))
    return taken


def _parts(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Number of the part that each of `count` things is in where pairs hang together; parts by their first member."""
    near: list[list[int]] = [[] for _ in range(count)]
    for u, v in pairs:
        near[u].append(v)
        near[v].append(u)
    part, number = [-1] * count, -1
    for start in range(count):
        number += part[start] < 0
        waiting = [start] if part[start] < 0 else []
        while waiting:
            thing = waiting.pop()
            part[thing] = number
            waiting += [other for other in near[thing] if part[other] < 0]
    return part


def _junction_tree(molecule: Chem.Mol) -> tuple[list[list[int]], Edges]:
    """Rings, joined where they share more than two atoms, bonds that are in no ring, and atoms where several of them meet."""
    cliques = [set(_ends(bond)) for bond in molecule.GetBonds() if not bond.IsInRing()]
    cliques += _joined_rings([set(ring) for ring in Chem.GetSymmSSSR(molecule)])
    weights: dict[tuple[int, int], int] = {}
    for atom in range(molecule.GetNumAtoms()):
        around = [number for number, clique in enumerate(cliques) if atom in clique]
        bonds = sum(len(cliques[number]) == 2 for number in around)
        rings = sum(len(cliques[number]) > 4 for number in around)
        if not around:
            cliques.append({atom})
        elif bonds > 2 or (bonds == 2 and len(around) > 2) or rings > 2:
            weights |= {(number, len(cliques)): 1 if bonds >= 2 else MOST_SHARED - 1 for number in around}
            cliques.append({atom})
        else:
            for place, first in enumerate(around):
                weights |= {(first, second): len(cliques[first] & cliques[second]) for second in around[place + 1 :]}
    return [sorted(clique) for clique in cliques], _spanning_tree(len(cliques), sorted(weights, key=lambda pair: (-weights[pair], pair)))


def _joined_rings(rings: list[set[int]]) -> list[set[int]]:
    """Rings that share more than two atoms are one."""
    found: list[set[int]] = []
    for ring in rings:
        while overlapping := next((other for other in found if len(other & ring) > 2), None):
            found.remove(overlapping)
            ring = ring | overlapping
        found.append(ring)
    return found


def _with_single_bonds(molecule: Chem.Mol) -> Chem.Mol:
    """With single and double bonds in place of aromatic ones, where that can be."""
    kekulised = Chem.Mol(molecule)
    try:
        Chem.Kekulize(kekulised, clearAromaticFlags=True)
    except Chem.KekulizeException:
        return molecule
    return kekulised


def _name(forms: tuple[Chem.Mol, Chem.Mol], atoms: list[int]) -> str:
    """The motif's SMILES as RDKit writes it when it has read it, hydrogens in place of the bonds that were cut.

    Args:
        forms: the molecule as it is, and with single bonds, of which a pyrrole whose nitrogen was cut off can be read; where neither can,
            the name is what was to be read.
    """
    texts: list[str] = [Chem.MolFragmentToSmiles(form, atoms, isomericSmiles=False) for form in forms]
    read = next((mol for mol in map(Chem.MolFromSmiles, texts) if mol is not None), None)
    return texts[0] if read is None else Chem.MolToSmiles(read, isomericSmiles=False)


def _with_hydrogens(count: int, bonds: np.ndarray, motifs: list[list[int]], heavy: list[int]) -> list[list[int]]:
    """Each hydrogen that was left out in the first motif that has its neighbour; atoms ascending."""
    home = {atom: number for number, motif in reversed(list(enumerate(motifs))) for atom in motif}
    result = [list(motif) for motif in motifs]
    for atom in np.setdiff1d(np.arange(count), heavy).tolist():
        bond = bonds[(bonds == atom).any(axis=1)][0]
        result[home[int(bond[bond != atom][0])]].append(atom)
    return [sorted(motif) for motif in result]


def _walk(atoms: list[list[int]], edges: Edges) -> tuple[list[int], list[int]]:
    """Motifs in the order of a walk from the first that has the first atom, children by their atoms; and the parents, as places in it."""
    near: list[list[int]] = [[] for _ in atoms]
    for u, v in edges:
        near[u].append(v)
        near[v].append(u)
    by_atoms = sorted(range(len(atoms)), key=lambda motif: (atoms[motif], motif))
    rank = {motif: place for place, motif in enumerate(by_atoms)}
    order: list[int] = []
    parents: list[int] = []
    seen: set[int] = set()
    for start in by_atoms:
        waiting = [] if start in seen else [(start, 0 if order else -1)]
        while waiting:
            motif, parent = waiting.pop()
            if motif in seen:
                continue
            seen.add(motif)
            order.append(motif)
            parents.append(parent)
            place = len(order) - 1
            waiting += [(other, place) for other in sorted(near[motif], key=rank.__getitem__, reverse=True) if other not in seen]
    return order, parents
