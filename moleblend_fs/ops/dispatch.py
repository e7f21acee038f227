"""Which implementation of each op runs: `auto`, `triton` or `reference`, for all ops or for one.

The choice comes from the environment variable MOLEBLEND_OPS, else from `configure` (the option --ops), else it is `auto`:
the Triton kernels on GPUs that they were made for, plain torch elsewhere. Before an op's kernels run on a device for the first
time with a type and a shape, they are compared with plain torch there: kernels that give other numbers end the run, kernels that do
not compile are replaced by plain torch under `auto` and end the run under `triton`.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import pkgutil
from collections.abc import Iterable

import torch

import moleblend_fs.ops
from moleblend_fs.errors import UserError
from moleblend_fs.ops.compile_ahead import Kernels, compile_ahead, interpreted

logger = logging.getLogger(__name__)

IMPLEMENTATIONS = ("auto", "triton", "reference")
VARIABLE = "MOLEBLEND_OPS"
LEAST_CAPABILITY = (8, 0)
"""Compute capability from which GPUs have the matrix units for bfloat16 that the kernels use."""
LAST_CAPABILITY = (9, 0)
"""The newest that the kernels are compiled for and checked (benchmarks/kernel_resources.csv)."""
CHOSEN_WITH = {"atom_forces": "attention"}
"""Ops that follow the choice of another."""
OPS = tuple(room.name for room in pkgutil.iter_modules(moleblend_fs.ops.__path__) if room.ispkg and room.name not in CHOSEN_WITH)
"""Ops that are chosen for: each folder here is one."""

_configured = "auto"  # state: of this process, as --ops is
_ready: set[tuple[torch.device, Kernels]] = set()  # state: what was compiled in this process, or was tried


class OtherNumbers(RuntimeError):
    """Kernels and plain torch differ by more than rounding explains."""


def configure(choice: str) -> None:
    """Choose for this process: one of `IMPLEMENTATIONS` for all ops, or e.g. "attention=triton,relation_bias=reference"."""
    global _configured
    parse(choice, "--ops")
    _configured = choice


@functools.cache
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


def wants_triton(op: str, device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether an op is to run its Triton kernels on this device for inputs of this type, unless they turn out not to compile.

    Raises:
        UserError: the kernels were asked for and cannot run there.
    """
    choice = _choice(op)
    if choice == "reference" or (choice == "auto" and device.type != "cuda"):
        return False
    obstacle = _obstacle(device, dtype)
    if choice == "triton":
        if obstacle is not None:
            raise UserError(f"the Triton kernels of {op} were asked for but cannot run: {obstacle}; choose auto or reference")
        return True
    obstacle = obstacle or _unverified(device)
    if obstacle is not None:
        _say_once(f"{op}: plain torch on {device}, since {obstacle}")
    return obstacle is None


def uses_triton(op: str, device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> bool:
    """Whether an op runs its Triton kernels on this device for inputs of this type.

    Args:
        shape: the sizes that the op's kernels are compiled for, see its `selftest`; None for those of the base model.

    Raises:
        UserError: the kernels were asked for and cannot run there.
        OtherNumbers: the kernels give other numbers than plain torch there.
        RuntimeError: the kernels were asked for and do not compile or run.
    """
    if not wants_triton(op, device, dtype):
        return False
    failure = _tested(op, device, dtype, shape)
    if failure is None:
        return True
    if _choice(op) == "triton":
        raise RuntimeError(f"the Triton kernels of {op} were asked for and fail on {device} in {dtype}: {failure}") from failure
    _say_once(f"{op}: plain torch on {device} in {dtype}, since its kernels fail there ({type(failure).__name__}: {failure})")
    return False


def make_ready(device: torch.device, wanted: Iterable[Kernels]) -> None:
    """Compile at once what several ops are about to be tested with on a GPU; else each compiles its own when it is used first."""
    if device.type != "cuda" or interpreted():
        return
    new = [kernels for kernels in wanted if (device, kernels) not in _ready]
    _ready.update((device, kernels) for kernels in new)
    with contextlib.suppress(UserError):  # raised where the op is used
        if new := [kernels for kernels in new if wants_triton(kernels.op, device, kernels.dtype)]:
            compile_ahead(new, device)


def _choice(op: str) -> str:
    variable, op = os.environ.get(VARIABLE), CHOSEN_WITH.get(op, op)
    return parse(variable, VARIABLE)[op] if variable else parse(_configured, "--ops")[op]


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why kernels cannot run on a device; None if they can."""
    if dtype == torch.float64:
        return "they compute in float32, and the inputs are float64"
    if not _installed("triton"):
        return "triton is not installed (pip install triton)"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        old = torch.version.hip is None and capability < LEAST_CAPABILITY
        return f"the GPU is {_name(capability)}, older than {_name(LEAST_CAPABILITY)}" if old else None
    if interpreted():
        return None
    return f"there is no compiler for {device.type} (TRITON_INTERPRET=1 runs them slowly, for tests)"


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _unverified(device: torch.device) -> str | None:
    """Why kernels that may well run on a device are not used unless they are asked for."""
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is not None:
        found = "the GPU is an AMD one"
    elif capability > LAST_CAPABILITY:
        found = f"the GPU is {_name(capability)}, newer than {_name(LAST_CAPABILITY)}"
    else:
        return None
    return f"{found}, which the kernels were not checked on; --ops triton (or {VARIABLE}=triton) runs them all the same"


def _name(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"


@functools.cache
def _tested(op: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...] | None) -> Exception | None:
    """What came up when the kernels were compiled and run for the first time; None if they did. Other numbers are raised."""
    make_ready(device, [Kernels(op, dtype, shape)])
    logger.info("%s: checking the kernels for %s on %s", op, dtype, device)
    try:
        importlib.import_module(f"moleblend_fs.ops.{op}.selftest").self_test(device, dtype, shape)
    except (OtherNumbers, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Triton's and LLVM's are of many classes
        return error
    return None


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def describe(op: str, device: torch.device) -> str:
    """What `moleblend doctor` says of an op on a device."""
    make_ready(device, [Kernels(each, torch.float32, None) for each in OPS])
    try:
        return "Triton kernels, self-test passed" if uses_triton(op, device) else "reference (plain torch)"
    except (UserError, RuntimeError) as error:
        return f"unusable: {error}"
