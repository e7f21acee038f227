"""A codebook in groups by element, as Mole-BERT's tokenizer has: each atom's code is the nearest one of its group.

Shape legend: B molecules, A atoms, K codes of all groups, d embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.precision import at_least_float32

CODEBOOK = "atom_codebook"
"""The head."""
GROUPS, GROUP = "atom_code_groups", "atom_code_group_"
"""Its sizes: how many groups, and the codes of each."""
CARBON, NITROGEN, OXYGEN = 5, 6, 7
"""Values of the atomic-number feature."""
NAMES = {1: ("any",), 4: ("C", "N", "O", "other")}
"""By the number of groups, what each is for."""
MOST = 65_536
"""Codes are kept as 16 bits."""


def group_sizes(text: str, option: str) -> tuple[int, ...]:
    """Codes of each group, from numbers separated by commas: one for all atoms, or those of carbon, nitrogen, oxygen and all others.

    Raises:
        UserError: it is something else.
    """
    words = [word.strip() for word in text.split(",")]
    sizes = tuple(int(word) for word in words if word.isascii() and word.isdigit())
    if len(sizes) < len(words) or len(sizes) not in NAMES or min(sizes) < 1 or sum(sizes) > MOST:
        raise UserError(
            f"{option} is one number of codes for all atoms, or four with commas (carbon, nitrogen, oxygen, others), each at least 1 and "
            f"{MOST:,} together at most; got {text!r}"
        )
    return sizes


def config_sizes(sizes: Sequence[int]) -> dict[str, int]:
    """Groups as `ModelConfig.sizes`."""
    return {GROUPS: len(sizes)} | {f"{GROUP}{number}": size for number, size in enumerate(sizes)}


def sizes_of(config: ModelConfig) -> tuple[int, ...]:
    """Codes of each group of a model's codebook."""
    return tuple(config.size_of(f"{GROUP}{number}") for number in range(config.size_of(GROUPS)))


def code_names(sizes: Sequence[int]) -> tuple[str, ...]:
    """(K,) such as "C 17", in the order of codes."""
    return tuple(f"{name} {number}" for name, size in zip(NAMES[len(sizes)], sizes, strict=True) for number in range(size))


class Codebook(nn.Module):
    """Codes (K, d), group after group."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.sizes = sizes_of(config)
        self.codes = nn.Parameter(torch.empty(sum(self.sizes), config.embed_dim))

    def start(self) -> None:
        """Of the size of an atom's vector, which is normalised."""
        nn.init.normal_(self.codes)

    def forward(self, atoms_Ad: Tensor, element_A: Tensor, left_out_AK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Each atom's code, (A, d) float32 or wider, and its number (A,).

        Args:
            element_A: int64, values of the atomic-number feature.
            left_out_AK: bool, codes that an atom does not get; not all of a group.
        """
        codes = at_least_float32(self.codes)
        with torch.no_grad():
            distance = codes.square().sum(dim=1) - 2 * at_least_float32(atoms_Ad) @ codes.T  # |e - c|^2 less |e|^2
            not_its = torch.zeros_like(distance, dtype=torch.bool) if left_out_AK is None else left_out_AK
            if len(self.sizes) > 1:
                groups = constant(tuple(group for group, size in enumerate(self.sizes) for _ in range(size)), torch.int64, codes.device)
                not_its = not_its | (group_of_element(element_A).unsqueeze(1) != groups)
            number = distance.masked_fill(not_its, torch.inf).argmin(dim=1)
        return codes.index_select(0, number), number


def group_of_element(element_A: Tensor) -> Tensor:
    """(A,) int64: 0 of carbon, 1 of nitrogen, 2 of oxygen, 3 of all others."""
    return torch.where((element_A >= CARBON) & (element_A <= OXYGEN), element_A - CARBON, 3)


register_head(CODEBOOK, Codebook)
