"""A molecule's motifs and their tree as a list of numbers: what the sidecar `motifs` keeps, and what batches carry.

    motifs M, members K | of each motif: 4 words of its code | of each motif: its parent plus 1 | of each member: its motif | its atom

Motifs are in the order of a depth-first walk; the first has no parent (0). Members are the atoms of motifs, motif by motif. A molecule of
which nothing is known has an empty list.
Shape legend: B molecules, N motifs of all of them, K their members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

MOTIFS = "motifs"
"""The vocabulary, and the sidecar."""
WORDS, WORD = 4, 16
"""Of a code, and their bits."""


def code_of(name: str) -> int:
    """A motif's code, from its name: equal names have equal codes, two others the same one with a probability of about 2^-64."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def as_list(atoms: Sequence[Sequence[int]], parents: Sequence[int], names: Sequence[str]) -> list[int]:
    """The list of a `chem.motifs.MotifTree`."""
    codes = [code_of(name) for name in names]
    words = [code >> (WORD * word) & 0xFFFF for code in codes for word in range(WORDS)]
    owners = [motif for motif, members in enumerate(atoms) for _ in members]
    return [len(names), len(owners), *words, *(parent + 1 for parent in parents), *owners, *(atom for members in atoms for atom in members)]


class MotifLists(NamedTuple):
    """Motifs of a batch, molecule after molecule, in the order of their walks.

    Attributes:
        molecule: (N,) int64, place in the batch. number: (N,) int64, within the molecule. code: (N,) int64.
        parent: (N,) int64, place among all motifs; -1 of each molecule's first.
        owner: (K,) int64, motif of each member. atom: (K,) int64, its atom's number within the molecule.
    """

    molecule: Tensor
    number: Tensor
    code: Tensor
    parent: Tensor
    owner: Tensor
    atom: Tensor


def motifs_of(lists_BL: Tensor) -> MotifLists:
    """What padded lists say, on their device."""
    import torch  # here, so that stores are made without it

    lists = lists_BL.long()
    if lists.shape[1] == 0:
        lists = lists.new_zeros(len(lists), 2)
    size, members = lists[:, :1], lists[:, 1:2]
    place = torch.arange(lists.shape[1], device=lists.device) - 2
    bounds = torch.cat([0 * size, WORDS * size, (WORDS + 1) * size, (WORDS + 1) * size + members, (WORDS + 1) * size + 2 * members], dim=1)
    within = [(place >= low.unsqueeze(1)) & (place < high.unsqueeze(1)) for low, high in zip(bounds.T[:-1], bounds.T[1:], strict=True)]
    words, parent, owner, atom = (lists[part] for part in within)
    molecule, first = within[1].nonzero()[:, 0], (size.cumsum(0) - size).squeeze(1)
    shifts = WORD * torch.arange(WORDS, device=lists.device)
    code = (words.view(-1, WORDS) << shifts).sum(dim=1)
    return MotifLists(
        molecule=molecule,
        number=torch.arange(len(molecule), device=lists.device) - first[molecule],
        code=code,
        parent=torch.where(parent > 0, first[molecule] + parent - 1, -1),
        owner=first[within[2].nonzero()[:, 0]] + owner,
        atom=atom,
    )
