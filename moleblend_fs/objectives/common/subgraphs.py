"""Atoms and bonds drawn from molecules, pairs whose paths use them, and molecules that some atoms were taken from.

Shortest paths are those of the whole molecule. Where an atom or a bond is not to be known, so are not the paths that use it: atom k lies on
a shortest path from i to j iff spd(i, k) + spd(k, j) = spd(i, j), bond (u, v) iff spd(i, u) + 1 + spd(v, j) = spd(i, j) one way or another.
That is exact for trees; with rings also pairs that have another path of the same length are meant.
Shape legend: B molecules, A atoms, P ordered pairs, M bonds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from moleblend_fs.data.batch import ROWS_OF_ATOMS, ROWS_OF_PAIRS, MoleculeBatch
from moleblend_fs.data.graph import MAX_SPD, UNREACHABLE
from moleblend_fs.errors import UserError
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.hashed_draws import bits, places_by
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD


def draw_atoms(batch: MoleculeBatch, layout: Layout, count_B: Tensor, *, stream: int, seed: int, epoch: int) -> Tensor:
    """(A,) bool, so many atoms of each molecule (all, where it has no more), each set of them with the same probability."""
    hashed = bits(stream, seed, epoch, batch.molecule_id[layout.atom_molecule], layout.atom_number)
    return places_by(layout.atom_molecule, hashed) < count_B[layout.atom_molecule]


def bonds_of(batch: MoleculeBatch, layout: Layout) -> Tensor:
    """(M,) int64, place in P of every bond, once: of the pair whose first atom has the lower number."""
    once = layout.atom_number[layout.pair_row] < layout.atom_number[layout.pair_column]
    return ((batch.spd == 1) & once).nonzero().squeeze(1)


def bonds_in(bonds_M: Tensor, layout: Layout) -> Tensor:
    """(B,) int64, how many of these bonds each molecule has."""
    molecule = layout.pair_molecule[bonds_M]
    return torch.zeros_like(layout.cu_atoms[1:]).index_add(0, molecule, torch.ones_like(molecule))


def draw_bonds(batch: MoleculeBatch, layout: Layout, bonds_M: Tensor, count_B: Tensor, *, stream: int, seed: int, epoch: int) -> Tensor:
    """(M,) bool, so many bonds of each molecule (all, where it has no more), each set of them with the same probability."""
    molecule = layout.pair_molecule[bonds_M]
    hashed = bits(stream, seed, epoch, batch.molecule_id[molecule], layout.pair_place[bonds_M])
    with_bonds = torch.unique_consecutive(molecule, return_inverse=True)[1]  # molecules may be more than bonds
    return places_by(with_bonds, hashed) < count_B[molecule]


def draw_connected(batch: MoleculeBatch, layout: Layout, count_B: Tensor, *, stream: int, seed: int, epoch: int) -> Tensor:
    """(A,) bool, so many atoms of each molecule (one at least) that hang together: a random one, and then again and again a random
    neighbour of those that are in. Fewer where a fragment has no more."""
    molecule = layout.atom_molecule

    def drawn(step: int) -> Tensor:
        """Random numbers, no two alike within a molecule."""
        random = bits(stream, seed, epoch, batch.molecule_id[molecule], layout.atom_number * 65_536 + step)
        return random * 65_536 + layout.atom_number

    def one_of(atoms: Tensor, step: int) -> Tensor:
        key = drawn(step).masked_fill(~atoms, 1 << 62)
        least = torch.full_like(layout.cu_atoms[1:], 1 << 62).scatter_reduce(0, molecule, key, "amin")
        return atoms & (key == least[molecule])

    bonds = bonds_of(batch, layout)
    ends = torch.stack([layout.pair_row[bonds], layout.pair_column[bonds]])
    start, end = torch.cat([ends, ends.flip(0)], dim=1)
    chosen = one_of(torch.ones_like(molecule, dtype=torch.bool), 0)
    for step in range(1, int(count_B.max())):
        neighbours = torch.zeros_like(molecule).index_add(0, end, chosen[start].long()) > 0
        chosen = chosen | one_of(neighbours & ~chosen & (step < count_B)[molecule], step)
    return chosen


def draw_around(
    batch: MoleculeBatch, layout: Layout, count_B: Tensor, *, stream: int, seed: int, epoch: int, place: int = 0, within: int = MAX_SPD
) -> Tensor:
    """(A,) bool, so many atoms of each molecule: a random one and those nearest to it, equally near ones at random. Fewer where there are
    no more, or none within so many bonds.

    Args:
        place: another number gives another first atom, where the molecule has another.
    """
    molecule = layout.atom_molecule
    hashed = bits(stream, seed, epoch, batch.molecule_id[molecule], layout.atom_number)
    first = places_by(molecule, hashed) == (place % layout.cu_atoms.diff())[molecule]
    away = batch.spd[first[layout.pair_row]].long()  # of their rows, which hold every atom once
    return (places_by(molecule, (away << 32) + hashed) < count_B[molecule]) & (away <= within)


def share_and_one(layout: Layout, share: float) -> Tensor:
    """(B,) floor(share * n + 1) for a molecule of n atoms: the count of masked atoms of Hu et al. (2020)."""
    return torch.floor(layout.cu_atoms.diff().double() * share + 1).long()


def check_share(option: str, share: float) -> None:
    """UserError unless a share lies in (0, 1)."""
    if not 0 < share < 1:
        raise UserError(f"{option} must lie between 0 and 1, got {share}")


def _each_of(places: Tensor, molecule: Tensor, layout: Layout) -> Iterator[tuple[Tensor, Tensor]]:
    """Atoms or bonds in the order of molecules, one of each molecule at a time: (B,) their places, and (B,) whether there are so many."""
    counts = torch.zeros_like(layout.cu_atoms[1:]).index_add(0, molecule, torch.ones_like(molecule))
    starts = counts.cumsum(0) - counts
    for number in range(int(counts.max()) if len(places) else 0):
        yield places[(starts + number).clamp(max=len(places) - 1)], counts > number


class _Paths:
    """Lengths of the shortest paths of every pair (i, j) to and from an atom of its molecule."""

    def __init__(self, batch: MoleculeBatch, layout: Layout):
        self.spd, self.molecule = batch.spd.long(), layout.pair_molecule
        self.first, self.size = layout.cu_atoms[self.molecule], layout.cu_atoms.diff()[self.molecule]
        self.start = layout.cu_pairs[self.molecule]
        self.row, self.column = layout.pair_row - self.first, layout.pair_column - self.first

    def meet(self, before_B: Tensor, after_B: Tensor, there_B: Tensor, between: int) -> Tensor:
        """(P,) bool, spd(i, u) + between + spd(v, j) = spd(i, j), with u and v of each molecule where there are any."""
        there = there_B[self.molecule]
        u, v = (torch.where(there, atom_B[self.molecule] - self.first, 0) for atom_B in (before_B, after_B))
        to, on = self.spd[self.start + self.row * self.size + u], self.spd[self.start + v * self.size + self.column]
        length = to + between + on
        longest = (self.spd == MAX_SPD) & (length > MAX_SPD)  # longer paths are stored as this
        return there & (to != UNREACHABLE) & (on != UNREACHABLE) & ((length == self.spd) | longest)


def paths_through(batch: MoleculeBatch, layout: Layout, atoms_A: Tensor) -> Tensor:
    """(P,) bool, pairs with one of these atoms on a shortest path between them, or at its ends."""
    paths, found, places = _Paths(batch, layout), torch.zeros_like(batch.spd, dtype=torch.bool), atoms_A.nonzero().squeeze(1)
    for atom_B, there_B in _each_of(places, layout.atom_molecule[places], layout):
        found |= paths.meet(atom_B, atom_B, there_B, 0)
    return found


def paths_over(batch: MoleculeBatch, layout: Layout, bonds_M: Tensor) -> Tensor:
    """(P,) bool, pairs with one of these bonds on a shortest path between them; bonds as places in P, in their order."""
    paths, found = _Paths(batch, layout), torch.zeros_like(batch.spd, dtype=torch.bool)
    for bond_B, there_B in _each_of(bonds_M, layout.pair_molecule[bonds_M], layout):
        u, v = layout.pair_row[bond_B], layout.pair_column[bond_B]
        found |= paths.meet(u, v, there_B, 1) | paths.meet(v, u, there_B, 1)
    return found


def without_bonds(relations_P: Tensor, hidden_P: Tensor, bits: int = SHOW_EDGE) -> Tensor:
    """What pairs show, less some relations where `hidden_P` is true."""
    return torch.where(hidden_P, relations_P & (0xFF ^ bits), relations_P)


@dataclass(frozen=True, slots=True)
class SubBatch:
    """A batch with atoms taken away; it is an ordinary batch, so that the model never knows.

    Attributes:
        batch, layout: of what is left; pairs keep the path lengths of the whole molecule.
        atoms: (A',) int64, places in A of the atoms that are left. pairs: (P',) int64, places in P.
        cut: (P',) bool, pairs with an atom that was taken away on a shortest path: their paths are not to be shown.
    """

    batch: MoleculeBatch
    layout: Layout
    atoms: Tensor
    pairs: Tensor
    cut: Tensor

    def show(self, shown: Shown) -> Shown:
        """What a view of the whole batch shows of what is left: no path through what was taken away."""
        return Shown(
            relations=without_bonds(shown.relations[self.pairs], self.cut, SHOW_SPD | SHOW_EDGE),
            degree=shown.degree[self.atoms],
            distances=shown.distances[self.atoms],
            coordinates=shown.coordinates[self.atoms],
            hidden=None if shown.hidden is None else shown.hidden[self.atoms],
            bare=None if shown.bare is None else shown.bare[self.atoms],
        )


def select_atoms(batch: MoleculeBatch, layout: Layout, keep_A: Tensor) -> SubBatch:
    """The molecules without some of their atoms; at least one of each must stay. Features, degrees among them, stay as they were."""
    left = torch.zeros_like(layout.cu_atoms[1:]).index_add(0, layout.atom_molecule, keep_A.long())
    atoms = keep_A.nonzero().squeeze(1)
    pairs = (keep_A[layout.pair_row] & keep_A[layout.pair_column]).nonzero().squeeze(1)
    num_atoms = left.cpu()
    rows = {**dict.fromkeys(ROWS_OF_ATOMS, atoms), **dict.fromkeys(ROWS_OF_PAIRS, pairs)}
    made = batch.map(lambda name, x: num_atoms if name == "num_atoms" else x[rows[name]] if name in rows else x)
    return SubBatch(made, Layout(num_atoms, layout.device), atoms, pairs, paths_through(batch, layout, ~keep_A)[pairs])
