"""Where torch is to run."""

import torch

from moleblend_fs.errors import UserError


def device_of(asked: str | None) -> str:
    """The device that was asked for, by default cuda where there is one; UserError where torch cannot use it."""
    device = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU is visible to torch; use --device cpu")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--device {device}: torch cannot use it ({str(error).splitlines()[0]}); use --device cpu") from error
    return device
