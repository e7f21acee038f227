"""The kernels of GELU and dropout against plain torch, on the device where they are to run."""

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops.dropout_bits import kept_values
from moleblend_fs.ops.gelu_dropout.autograd import gelu_dropout_linear
from moleblend_fs.ops.selftest_tolerance import compare, tolerance_of

NAMES = ("product", "d x", "d bias of x", "d weight", "d bias")


def exact_gelu_linear(x_Tf: Tensor, x_bias: Tensor, weight: Tensor, bias: Tensor, *, factor_Tf: Tensor) -> Tensor:
    """What the kernels compute, with what is kept given."""
    return F.linear(factor_Tf * F.gelu(x_Tf + x_bias), weight, bias)


def self_test(device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> None:
    """Compare the kernels with float64, values dropped, on a few rows.

    Args:
        dtype: of everything.
        shape: the width of what is activated.

    Raises:
        OtherNumbers: they differ by more than rounding explains.
    """
    random = torch.Generator().manual_seed(0)
    rows, (width,), out, dropout, seed = 37, shape or (768,), 32, 0.2, (12345, -678)
    given = [
        torch.randn(size, generator=random).to(device, dtype).requires_grad_() for size in ((rows, width), (width,), (out, width), (out,))
    ]
    upstream = torch.randn(rows, out, generator=random).to(device, dtype)
    with torch.enable_grad():
        ours = gelu_dropout_linear(*given, dropout=dropout, seed=seed)
        exact = [x.detach().double().requires_grad_() for x in given]
        theirs = exact_gelu_linear(*exact, factor_Tf=kept_values(seed, rows, width, dropout).to(device))
        d_ours = torch.autograd.grad(ours, given, upstream)
        d_theirs = torch.autograd.grad(theirs, exact, upstream.double())
    what = f"gelu_dropout kernels on {device} in {dtype}, width {width}"
    compare(what, NAMES, (ours, *d_ours), (theirs, *d_theirs), tolerance_of(dtype))
