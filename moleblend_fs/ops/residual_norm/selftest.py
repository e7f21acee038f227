"""The residual norm's kernels against plain torch, on the device where they are to run.

Shape legend: T tokens, d embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops.dropout_bits import kept_rows, kept_values
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.residual_norm.autograd import residual_norm_linear
from moleblend_fs.ops.selftest_tolerance import compare, tolerance_of

NAMES = ("norm", "product", "d x", "d branch", "d branch bias", "d gain", "d shift", "d weight", "d bias")


def kept_factor(seed: tuple[int, int], layout: Layout, width: int, dropout: float, drop_path: float) -> Tensor:
    """What the kernels multiply the branch by, in plain torch: (T, d) float64."""
    molecules = kept_rows(seed, layout.num_molecules, drop_path)[layout.token_molecule.cpu()]
    return (molecules * kept_values(seed, layout.num_tokens, width, dropout)).to(layout.device)


def exact_norm_linear(
    x_Td: Tensor, branch_Td: Tensor, branch_bias: Tensor, gain: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, *, factor_Td: Tensor
) -> tuple[Tensor, Tensor]:
    """What the kernels compute, with what of the branch is kept given."""
    normed = F.layer_norm(x_Td + factor_Td * (branch_Td + branch_bias), gain.shape, gain, shift, 1e-5)
    return normed, F.linear(normed, weight, bias)


def self_test(device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> None:
    """Compare the kernels with float64, values and molecules dropped, on a few molecules.

    Args:
        dtype: of everything.
        shape: the embedding width.

    Raises:
        OtherNumbers: they differ by more than rounding explains.
    """
    random = torch.Generator().manual_seed(0)
    layout, (width,) = Layout(torch.tensor([1, 9, 2, 16, 3]), device), shape or (768,)
    tokens, out, dropout, drop_path, seed = layout.num_tokens, 32, 0.2, 0.3, (12345, -678)
    shapes = ((tokens, width), (tokens, width), (width,), (width,), (width,), (out, width), (out,))
    given = [torch.randn(size, generator=random).to(device, dtype).requires_grad_() for size in shapes]
    upstream = [torch.randn(size, generator=random).to(device, dtype) for size in ((tokens, width), (tokens, out))]
    with torch.enable_grad():
        ours = residual_norm_linear(*[*given, layout.token_molecule], eps=1e-5, dropout=dropout, drop_path=drop_path, seed=seed)
        exact = [x.detach().double().requires_grad_() for x in given]
        theirs = exact_norm_linear(*exact, factor_Td=kept_factor(seed, layout, width, dropout, drop_path))
        d_ours = torch.autograd.grad(ours, given, upstream)
        d_theirs = torch.autograd.grad(theirs, exact, [x.double() for x in upstream])
    what = f"residual_norm kernels on {device} in {dtype}, width {width}"
    compare(what, NAMES, (*ours, *d_ours), (*theirs, *d_theirs), tolerance_of(dtype))
