"""Attention over atoms weighted by unit displacements, which the noise head is made of.

Shape legend: A atoms, P atom pairs, H heads, w head width; see `ops.layout`.
"""

from torch import Tensor

from moleblend_fs.ops.atom_forces import reference
from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.layout import Layout


def atom_forces(
    q_AHw: Tensor, k_AHw: Tensor, value_AH3: Tensor, bias_PH: Tensor, coordinates_A3: Tensor, layout: Layout, dropout: float
) -> Tensor:
    """Attention over atoms, weighted by unit displacements: sum_hj p_hij u_ij,a s_hj,a, shape (A, 3).

    Args:
        q_AHw: queries (scaled). k_AHw: keys.
        value_AH3: s, every value already projected to its share of the output for each axis a.
        bias_PH: the encoder's bias. coordinates_A3: r, of which u_ij = (r_j - r_i) / |r_j - r_i|.
        dropout: on the probabilities.
    """
    if uses_triton("atom_forces", q_AHw.device, q_AHw.dtype, tuple(q_AHw.shape[1:])):
        from moleblend_fs.ops.atom_forces import launch

        return launch.atom_forces(q_AHw, k_AHw, value_AH3, bias_PH, coordinates_A3, layout, dropout)
    return reference.atom_forces(q_AHw, k_AHw, value_AH3, bias_PH, coordinates_A3, layout, dropout)
