"""What stands for a whole molecule: its graph token, the mean of its atoms, or both.

Shape legend: B molecules, A atoms, T tokens, d embedding width.
"""

from torch import Tensor

from moleblend_fs.model.config import MEAN, TOKEN
from moleblend_fs.ops.layout import Layout


def mean_of_atoms(x_Ad: Tensor, layout: Layout) -> Tensor:
    """(B, d) means over each molecule's atoms."""
    total = x_Ad.new_zeros(layout.num_molecules, x_Ad.shape[1]).index_add(0, layout.atom_molecule, x_Ad)
    return total / layout.cu_atoms.diff().unsqueeze(1).to(total.dtype)


def read_out(tokens_Td: Tensor, layout: Layout, readout: str) -> Tensor:
    """(B, d) of all tokens' representations, by one of `config.READOUTS`."""
    if readout == TOKEN:
        return tokens_Td.index_select(0, layout.graph_tokens)
    mean = mean_of_atoms(tokens_Td.index_select(0, layout.atom_tokens), layout)
    return mean if readout == MEAN else tokens_Td.index_select(0, layout.graph_tokens) + mean
