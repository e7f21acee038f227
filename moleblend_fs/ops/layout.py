"""Where each molecule's atoms, tokens and pairs lie in a packed batch, and how to pad groups of similar size.

Shape legend: B molecules, A atoms in all, T = A + B tokens (each molecule's graph token, then its atoms),
P = sum of n_b^2 ordered atom pairs (row-major per molecule), b molecules of one bucket, n its padded atoms, N = n + 1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

BUCKET_STEP = 4
"""Tokens of a bucket are padded to a multiple of this, so that a molecule's padding depends on its own size alone."""
ROUND = 1000
"""Padded pairs of tokens that take a CPU as long as the calls for one more bucket."""

SMALLEST_CLASS = 16
"""Capacity of the smallest `SizeClass`: the smallest matrix product of a GPU kernel has 16 rows."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Molecules of similar size, padded to N tokens; padded places point at the first place of their own molecule and are masked.

    What they read is multiplied by 0, and 0 times another molecule's NaN would be NaN.

    Attributes:
        pair_bounds: b + 1 numbers, where each molecule's share of pair_places begins.
        tokens: (b, N) int64, places in T. token_exists: (b, N) bool.
        atoms: (b, n) int64, places in A. pairs: (b, n, n) int64, places in P. pair_exists: (b, n, n) bool.
        token_places: (t,) int64, places in the flattened (b, N) that exist. token_targets: (t,) int64, the places in T that they are.
        atom_places, pair_places: the same for the flattened (b, n) and (b, n, n); their targets, over all buckets, are in
            `Layout.atom_order` and `Layout.pair_order`.
    """

    pair_bounds: list[int]
    tokens: Tensor
    token_exists: Tensor
    atoms: Tensor
    pairs: Tensor
    pair_exists: Tensor
    token_places: Tensor
    token_targets: Tensor
    atom_places: Tensor
    pair_places: Tensor


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Molecules that one shape of kernel handles.

    Attributes:
        capacity: tokens that each of them fits into, a power of two from `SMALLEST_CLASS`.
        molecules: (b,) int32, their places in B, largest first, so that the last programs of a launch are short.
    """

    capacity: int
    molecules: Tensor


class Layout:
    """Index arrays of a packed batch, planned on the host from the molecules' sizes.

    Args:
        num_atoms: (B,) integers on the CPU, at least 1 each.
        device: where the index tensors are needed.
        merged: whether buckets of neighbouring sizes become one where that takes less time. A molecule's numbers then depend on the
            others of its batch, in their last bits: for training alone.
    """

    def __init__(self, num_atoms: Tensor, device: torch.device | str, *, merged: bool = False):
        self.merged = merged
        self.sizes = num_atoms.numpy().astype(np.int64)
        if len(self.sizes) == 0 or self.sizes.min() < 1:
            raise ValueError("a batch needs at least one molecule, each of at least one atom")
        self.device = torch.device(device)
        self.num_molecules = len(self.sizes)
        self.atom_starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.pair_starts = np.concatenate([[0], np.cumsum(self.sizes**2)])
        self.token_starts = np.concatenate([[0], np.cumsum(self.sizes + 1)])
        self.num_total_atoms = int(self.atom_starts[-1])
        self.num_pairs = int(self.pair_starts[-1])
        self.num_tokens = int(self.token_starts[-1])

    def _send(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    @cached_property
    def _starts(self) -> Tensor:
        return self._send(np.stack([self.atom_starts, self.token_starts, self.pair_starts]))

    @cached_property
    def cu_atoms(self) -> Tensor:
        """(B + 1,) int64, where each molecule's atoms start in A."""
        return self._starts[0]

    @cached_property
    def cu_tokens(self) -> Tensor:
        """(B + 1,) int64, where each molecule's tokens start in T."""
        return self._starts[1]

    @cached_property
    def cu_pairs(self) -> Tensor:
        """(B + 1,) int64, where each molecule's pairs start in P."""
        return self._starts[2]

    def _molecule_of_each(self, starts: Tensor, total: int) -> Tensor:
        return torch.repeat_interleave(starts.diff(), output_size=total)  # told the size, it need not wait for the device

    @cached_property
    def atom_molecule(self) -> Tensor:
        """(A,) int64, the molecule of each atom."""
        return self._molecule_of_each(self.cu_atoms, self.num_total_atoms)

    @cached_property
    def pair_molecule(self) -> Tensor:
        """(P,) int64, the molecule of each pair."""
        return self._molecule_of_each(self.cu_pairs, self.num_pairs)

    @cached_property
    def token_molecule(self) -> Tensor:
        """(T,) int64, the molecule of each token."""
        return self._molecule_of_each(self.cu_tokens, self.num_tokens)

    @property
    def graph_tokens(self) -> Tensor:
        """(B,) int64, places in T of the graph tokens."""
        return self.cu_tokens[:-1]

    @cached_property
    def atom_tokens(self) -> Tensor:
        """(A,) int64, places in T of the atoms."""
        return torch.arange(1, self.num_total_atoms + 1, device=self.device) + self.atom_molecule

    @cached_property
    def token_atoms(self) -> Tensor:
        """(T,) int64, places in A of the tokens; of a graph token any."""
        return (torch.arange(-1, self.num_tokens - 1, device=self.device) - self.token_molecule).clamp_(min=0)

    @cached_property
    def _pair_atoms(self) -> tuple[Tensor, Tensor]:
        """(P,) numbers of both atoms of each pair within their molecule."""
        molecule = self.pair_molecule
        size = self.cu_atoms.diff()[molecule]
        local = torch.arange(self.num_pairs, device=self.device) - self.cu_pairs[molecule]
        row = torch.div(local, size, rounding_mode="floor")
        return row, local - row * size

    @cached_property
    def pair_row(self) -> Tensor:
        """(P,) int64, place in A of the pair's first atom i."""
        return self._pair_atoms[0] + self.cu_atoms[self.pair_molecule]

    @cached_property
    def pair_column(self) -> Tensor:
        """(P,) int64, place in A of the pair's second atom j."""
        return self._pair_atoms[1] + self.cu_atoms[self.pair_molecule]

    @cached_property
    def pair_reversed(self) -> Tensor:
        """(P,) int64, the place in P of pair (j, i) for each pair (i, j)."""
        row, column = self._pair_atoms
        molecule = self.pair_molecule
        return self.cu_pairs[molecule] + column * self.cu_atoms.diff()[molecule] + row

    @cached_property
    def atom_number(self) -> Tensor:
        """(A,) int64, number of each atom within its molecule."""
        return torch.arange(self.num_total_atoms, device=self.device) - self.cu_atoms[self.atom_molecule]

    @cached_property
    def pair_place(self) -> Tensor:
        """(P,) int64, a number for each pair within its molecule that does not depend on the molecule's size: 65,536 i + j."""
        row, column = self._pair_atoms
        return row * 65_536 + column

    @cached_property
    def atom_order(self) -> Tensor:
        """(A,) int64, where each atom stands among the existing atoms of all buckets, end to end."""
        return self._inverse([bucket.atoms.reshape(-1)[bucket.atom_places] for bucket in self.buckets])

    @cached_property
    def pair_order(self) -> Tensor:
        """(P,) int64, where each pair stands among the existing pairs of all buckets, end to end."""
        return self._inverse([bucket.pairs.reshape(-1)[bucket.pair_places] for bucket in self.buckets])

    def _inverse(self, targets: list[Tensor]) -> Tensor:
        order = torch.cat(targets)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=self.device)
        return inverse

    @cached_property
    def size_classes(self) -> list[SizeClass]:
        """All molecules, grouped by the smallest power of two that holds their tokens."""
        largest_first = np.argsort(-self.sizes, kind="stable")
        tokens = self.sizes[largest_first] + 1
        capacity = np.maximum(1 << np.ceil(np.log2(tokens)).astype(np.int64), SMALLEST_CLASS)
        molecules = self._send(largest_first.astype(np.int32))
        starts = np.flatnonzero(np.diff(capacity, prepend=0)).tolist()
        return [SizeClass(int(capacity[a]), molecules[a:b]) for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True)]

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All molecules, grouped by padded size."""
        padded = -(-(self.sizes + 1) // BUCKET_STEP) * BUCKET_STEP
        if self.merged:
            padded = _merged(padded)
        return [self._bucket(np.flatnonzero(padded == tokens), int(tokens) - 1) for tokens in np.unique(padded)]

    def _bucket(self, members: np.ndarray, n: int) -> Bucket:
        size = self.sizes[members, None]
        token, atom = np.arange(n + 1), np.arange(n)
        token_exists = token <= size
        atom_exists = atom < size
        pair_exists = atom_exists[:, :, None] & atom_exists[:, None, :]
        tokens = self.token_starts[members, None] + np.where(token_exists, token, 0)
        atoms = self.atom_starts[members, None] + np.where(atom_exists, atom, 0)
        pairs = self.pair_starts[members, None, None] + np.where(pair_exists, atom[:, None] * size[:, :, None] + atom, 0)
        token_places = np.flatnonzero(token_exists)
        arrays = (
            tokens,
            token_exists,
            atoms,
            pairs,
            pair_exists,
            token_places,
            tokens.reshape(-1)[token_places],
            np.flatnonzero(atom_exists),
            np.flatnonzero(pair_exists),
        )
        bounds = np.concatenate([[0], np.cumsum(self.sizes[members] ** 2)]).tolist()
        return Bucket(bounds, *(self._send(array) for array in arrays))


def _merged(padded: np.ndarray) -> np.ndarray:
    """Padded sizes of molecules, of which some are raised to the next ones that occur: so that pairs and rounds take the least."""
    tokens, place, molecules = np.unique(padded, return_inverse=True, return_counts=True)
    costs, firsts = [0], list[int]()
    for last, size in enumerate(tokens.tolist(), start=1):  # of the sizes so far: the least, and where its last bucket begins
        each = [costs[first] + ROUND + int(molecules[first:last].sum()) * size**2 for first in range(last)]
        firsts.append(int(np.argmin(each)))
        costs.append(min(each))
    raised, last = tokens.copy(), len(tokens)
    while last:
        first = firsts[last - 1]
        raised[first:last], last = tokens[last - 1], first
    return raised[place]
