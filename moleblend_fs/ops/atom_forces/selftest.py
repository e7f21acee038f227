"""The kernels of `atom_forces` against plain torch, on the device where they are to run.

Shape legend: A atoms, P atom pairs, H heads, w head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moleblend_fs.ops.atom_forces.launch import AtomForces
from moleblend_fs.ops.atom_forces.reference import directions
from moleblend_fs.ops.attention.kernel_parts import dropout_keep, dropout_scale
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.selftest_tolerance import compare, tolerance_of


def dense_forces(
    q_AHw: Tensor,
    k_AHw: Tensor,
    value_AH3: Tensor,
    bias_PH: Tensor,
    direction_P3: Tensor,
    layout: Layout,
    keep: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """What the kernels compute, one molecule at a time in plain torch, to test them: (A, 3).

    Args:
        keep: `dropout_keep`, of tokens; None keeps all weights.
    """
    outputs = []
    for number, n in enumerate(layout.sizes.tolist()):
        atoms = slice(int(layout.atom_starts[number]), int(layout.atom_starts[number]) + n)
        pairs = slice(int(layout.pair_starts[number]), int(layout.pair_starts[number]) + n * n)
        logits = torch.einsum("ihw,jhw->hij", q_AHw[atoms], k_AHw[atoms]) + bias_PH[pairs].view(n, n, -1).permute(2, 0, 1)
        weights = torch.softmax(logits, dim=2)
        if keep is not None:
            weights = weights * keep[number][:, 1:, 1:] * dropout_scale(dropout)
        outputs.append(torch.einsum("hij,ija,jha->ia", weights, direction_P3[pairs].view(n, n, 3), value_AH3[atoms]))
    return torch.cat(outputs)


def self_test(device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> None:
    """Compare the kernels with `dense_forces` on a device, with dropout.

    Args:
        dtype: of queries, keys and values; bias and coordinates are float32.
        shape: heads and their width.

    Raises:
        OtherNumbers: output or a gradient is off by more than rounding can explain, with the figures.
    """
    random = torch.Generator().manual_seed(0)
    layout, (heads, width), dropout, seed = Layout(torch.tensor([1, 9, 40]), device), shape or (2, 24), 0.2, (123, -45)
    A, P = layout.num_total_atoms, layout.num_pairs
    shapes = ((A, heads, width), (A, heads, width), (A, heads, 3), (P, heads), (A, 3), (A, 3))
    with torch.enable_grad():
        q, k, value, bias, coordinates, upstream = (torch.randn(size, generator=random).to(device) for size in shapes)
        given = [*(x.to(dtype).requires_grad_() for x in (width**-0.5 * q, k, value)), bias.requires_grad_()]
        exact = [x.detach().double().requires_grad_() for x in given]
        ours = AtomForces.apply(*given, coordinates, layout, dropout, seed)
        keep = dropout_keep(seed, layout, heads, dropout)
        theirs = dense_forces(exact[0], exact[1], exact[2], exact[3], directions(coordinates.double(), layout), layout, keep, dropout)
        ours_d = torch.autograd.grad(ours, given, upstream)
        theirs_d = torch.autograd.grad(theirs, exact, upstream.double())
    names = ("forces", "d q", "d k", "d value", "d bias")
    what = f"atom_forces kernels on {device} in {dtype}, {heads} heads of {width}"
    compare(what, names, (ours, *ours_d), (theirs, *theirs_d), tolerance_of(dtype))
