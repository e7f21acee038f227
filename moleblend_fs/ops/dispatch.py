"""Which implementation of each op runs: `auto`, `triton` or `reference`, for all ops or for one.

The choice comes from the environment variable MOLEBLEND_OPS, else from `configure` (the option --ops), else it is `auto`:
the Triton kernels on GPUs that can run them, plain torch elsewhere. Before an op's kernels run on a device for the first
time, they are compared with plain torch there; kernels that give other numbers end the run.
"""

import functools
import importlib
import importlib.util
import logging
import os

import torch

from moleblend_fs.errors import UserError

logger = logging.getLogger(__name__)

OPS = ("relation_bias", "attention", "pair_projection")
IMPLEMENTATIONS = ("auto", "triton", "reference")
VARIABLE = "MOLEBLEND_OPS"
LEAST_CAPABILITY = (8, 0)
"""Compute capability from which GPUs have the matrix units for bfloat16 that the kernels use."""

_configured = "auto"


def configure(choice: str) -> None:
    """Choose for this process: one of `IMPLEMENTATIONS` for all ops, or e.g. "attention=triton,relation_bias=reference"."""
    global _configured
    parse(choice, "--ops")
    _configured = choice


def parse(choice: str, where: str) -> dict[str, str]:
    """The implementation asked for of each op.

    Raises:
        UserError: on another op or implementation than there are.
    """
    if choice in IMPLEMENTATIONS:
        return dict.fromkeys(OPS, choice)
    asked = dict.fromkeys(OPS, "auto")
    for part in choice.split(","):
        op, _, implementation = part.strip().partition("=")
        if op not in OPS or implementation not in IMPLEMENTATIONS:
            raise UserError(
                f"{where} {choice!r}: expected one of {', '.join(IMPLEMENTATIONS)}, "
                f"or a list of OP=IMPLEMENTATION with OP one of {', '.join(OPS)}"
            )
        asked[op] = implementation
    return asked


def uses_triton(op: str, device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether an op runs its Triton kernels on this device for inputs of this type.

    Raises:
        UserError: the kernels were asked for and cannot run there.
        RuntimeError: the kernels give other numbers than plain torch there.
    """
    variable = os.environ.get(VARIABLE)
    choice = parse(variable, VARIABLE)[op] if variable else parse(_configured, "--ops")[op]
    if choice == "reference" or (choice == "auto" and device.type != "cuda"):
        return False
    obstacle = _obstacle(device, dtype)
    if obstacle is None:
        _tested(op, device)
        return True
    if choice == "triton":
        raise UserError(f"the Triton kernels of {op} were asked for but cannot run: {obstacle}; choose auto or reference")
    _say_once(f"{op}: plain torch on {device}, since {obstacle}")
    return False


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why kernels cannot run on a device; None if they can."""
    if dtype == torch.float64:
        return "they compute in float32, and the inputs are float64"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return None if capability >= LEAST_CAPABILITY else f"the GPU is sm_{capability[0]}{capability[1]}, older than sm_80"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"there is no compiler for {device.type} (TRITON_INTERPRET=1 runs them slowly, for tests)"


@functools.cache
def _tested(op: str, device: torch.device) -> None:
    importlib.import_module(f"moleblend_fs.ops.{op}.selftest").self_test(device)


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def describe(op: str, device: torch.device) -> str:
    """What `moleblend doctor` says of an op on a device."""
    try:
        return "Triton kernels, self-test passed" if uses_triton(op, device) else "reference (plain torch)"
    except (UserError, RuntimeError) as error:
        return f"unusable: {error}"
