"""Two sets of places of the same atoms, laid onto each other by the rotation and translation that fit best. Nothing is mirrored.

The rotation is the eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix (Horn 1987), found by squaring the matrix, so that
nothing asks the device whether it converged. No gradient goes through it.
Shape legend: B molecules, A atoms, C candidates (orders of a molecule's atoms), d width.
"""

import torch
from torch import Tensor

from moleblend_fs.objectives.common import gradients

SQUARINGS = 40
"""Two largest eigenvalues that differ by a share of 1e-10 are told apart; nearer ones fit as well as each other."""
SMALL = 1e-12
"""Added to squared lengths, Angstrom^2: the slope of a length of 0 is 0 then."""


def mean_of(x_Ad: Tensor, molecule_A: Tensor, size_B: Tensor) -> Tensor:
    """(B, ...) means over each molecule's atoms."""
    total = x_Ad.new_zeros(len(size_B), *x_Ad.shape[1:]).index_add(0, molecule_A, x_Ad)
    return total / size_B.to(x_Ad.dtype).view(-1, *[1] * (x_Ad.ndim - 1))


def centred(x_Ad: Tensor, molecule_A: Tensor, size_B: Tensor) -> Tensor:
    """Places less the mean of their molecule's."""
    return x_Ad - mean_of(x_Ad, molecule_A, size_B)[molecule_A]


def best_rotation(ours_AC3: Tensor, theirs_AC3: Tensor, molecule_A: Tensor, molecules: int) -> Tensor:
    """(B, C, 3, 3) rotations R with the least sum of |ours - R theirs|^2; both centred, and float64."""
    products = theirs_AC3.unsqueeze(-1) * ours_AC3.unsqueeze(-2)
    s = products.new_zeros(molecules, *products.shape[1:]).index_add(0, molecule_A, products)
    xx, xy, xz, yx, yy, yz, zx, zy, zz = s.flatten(-2).unbind(-1)
    rows = (
        (xx + yy + zz, yz - zy, zx - xz, xy - yx),
        (yz - zy, xx - yy - zz, xy + yx, zx + xz),
        (zx - xz, xy + yx, yy - xx - zz, yz + zy),
        (xy - yx, zx + xz, yz + zy, zz - xx - yy),
    )
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    # Above 0 in all directions, so that the largest eigenvalue is the largest power too; of nothing but zeros any rotation is best.
    shift = matrix.flatten(-2).norm(dim=-1) + SMALL
    power = matrix + shift[..., None, None] * torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    for _ in range(SQUARINGS):
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        power = power @ power
    column = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
    found = power.gather(-1, column[..., None, None].expand(*column.shape, 4, 1)).squeeze(-1)
    return rotation_of(found / found.norm(dim=-1, keepdim=True))


def rotation_of(quaternion: Tensor) -> Tensor:
    """(..., 3, 3) of unit quaternions (..., 4), the real part first."""
    w, x, y, z = quaternion.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def errors_of(ours_A3: Tensor, theirs_AC3: Tensor, molecule_A: Tensor, size_B: Tensor) -> Tensor:
    """(B, C) mean distance of each molecule's atoms from those of each candidate, laid onto them, Angstrom."""
    ours = centred(ours_A3, molecule_A, size_B).unsqueeze(1)
    theirs = centred(theirs_AC3.double(), molecule_A, size_B)
    with torch.no_grad():
        rotation = best_rotation(ours.double().expand_as(theirs), theirs, molecule_A, len(size_B))
        laid = (rotation[molecule_A] @ theirs.unsqueeze(-1)).squeeze(-1)
    away = ((ours - gradients.stopped(laid).to(ours.dtype)).square().sum(dim=-1) + SMALL).sqrt()
    return mean_of(away, molecule_A, size_B)
