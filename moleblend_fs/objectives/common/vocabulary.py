"""Classes of a sidecar's vocabulary: codes of atoms' contexts, of motifs, ..."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moleblend_fs.data.sidecar import Entry
from moleblend_fs.errors import UserError


class Vocabulary:
    """The most frequent entries as classes 1, 2, ...; all others are class 0. It is kept on the CPU, where objectives prepare.

    Args:
        entries: most frequent first.
        most: how many are told apart; 0 for all.
        min_count: those that are rarer in the store are not.
        option: what sets it, for the message.

    Attributes:
        classes: how many there are.

    Raises:
        UserError: none is left.
    """

    def __init__(self, entries: Sequence[Entry], most: int, min_count: int, option: str):
        kept = [entry.code for entry in entries if entry.count >= min_count][: most or None]
        if not kept:
            raise UserError(f"nothing in the vocabulary is {min_count} times in the store; lower {option}")
        self.codes, order = torch.tensor(kept, dtype=torch.int64).sort()
        self.numbers = order + 1
        self.classes = len(kept) + 1

    def classes_of(self, codes_N: Tensor) -> Tensor:
        """(N,) int64."""
        place = torch.searchsorted(self.codes, codes_N).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[place] == codes_N, self.numbers[place], 0)
