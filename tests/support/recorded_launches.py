"""What Triton would compile for a GPU that is not there: its own just-in-time compiler specialises each launch, which is noted and not run.

For a process without Triton's interpreter, `without_interpreter`.
"""

import functools
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from benchmarks.budget import count_finetuning, count_update
from benchmarks.kernel_resources import ARCHITECTURES, kernel_modules, variants_of
from moleblend_fs.model.config import PRESETS
from moleblend_fs.ops.kernel_common import Variant
from moleblend_fs.ops.relation_bias import launch as relation_bias

STEPS = {
    "pretraining": count_update,
    "finetuning": count_finetuning,
    "predicting": functools.partial(count_finetuning, training=False),
}
"""Real steps, on tensors without content."""
LAYERS = 3
"""A first, a last and one between; more would launch what the one between does."""
SPECIALIZED = [["tt.divisibility", 16]]


class WithoutGPU:
    """A driver of which Triton can ask what a launch needs."""

    @staticmethod
    def get_current_device() -> int:
        return 0

    @staticmethod
    def get_current_stream(device: int) -> int:
        return 0

    @staticmethod
    def get_current_target() -> GPUTarget:
        return GPUTarget("cuda", ARCHITECTURES[-1], 32)


class Pointer:
    """A tensor as Triton looks at it: torch's memory begins at a multiple of 512 bytes, a view's further on."""

    def __init__(self, x: Tensor):
        self.dtype, self.place = x.dtype, x.storage_offset() * x.element_size()

    def data_ptr(self) -> int:
        return self.place


class NotRun:
    """Stands for a compiled kernel."""

    function = packed_metadata = None

    def launch_metadata(self, *_: Any) -> None:
        return None

    def run(self, *_: Any) -> None:
        return None


class Recorder:
    """Each launch goes the way of a real one up to the compiler.

    Attributes:
        launches: how many there were.
        found: what the compiler would have been called for, once each, as Triton keeps it.
        wrong: lines about arguments whose values something would be compiled anew for.
    """

    def __init__(self) -> None:
        self.launches = 0
        self.found: list[Variant] = []
        self.wrong: list[str] = []
        self._run = JITFunction.run

    def launched(self, kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        def seen(value: Any) -> Any:
            return Pointer(value) if isinstance(value, Tensor) else value

        self.launches += 1
        named = {name: seen(value) for name, value in options.items()}
        with mock.patch.object(JITFunction, "_do_compile", self._compiler()):
            self._run(kernel, *map(seen, arguments), grid=(1,), warmup=False, **named)

    def _compiler(self) -> Any:
        def do_compile(
            kernel: Any, key: str, signature: dict, device: int, constants: dict, options: Any, attributes: dict, *_: Any
        ) -> Any:
            names = kernel.arg_names
            types = {name: kind for name, kind in signature.items() if kind != "constexpr"}
            values = {names[place]: value for (place,), value in constants.items()}
            variant = Variant(kernel.__name__, kernel, types, values, options.num_warps, options.num_stages)
            special = {names[place]: what for (place,), what in attributes.items() if names[place] in types and what}
            aligned = [each.name for each in kernel.params if types.get(each.name, "").startswith("*") and not each.do_not_specialize]
            constants_meant = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
            if special != dict.fromkeys(aligned, SPECIALIZED) or set(values) != constants_meant:
                self.wrong.append(f"{kernel.__name__} is compiled for {special} and {values}")
            self.found.append(variant)
            return kernel.device_caches[device][0].setdefault(key, NotRun())

        return do_compile


def identity(variant: Variant) -> tuple[Any, ...]:
    """What is compiled, whatever it is called."""
    call = (sorted(variant.signature.items()), sorted(variant.constexprs.items()), variant.num_warps, variant.num_stages)
    return variant.function.__module__, variant.function.__name__, repr(call)


def main(steps: list[tuple[str, str, str, list[int]]]) -> dict[str, Any]:
    """Launches and new kernels of each step, arguments that are compiled anew for, and kernels that the table of resources lacks.

    Args:
        steps: step, see `STEPS`; arch; dtype; sizes of molecules.
    """
    driver.set_active(WithoutGPU())
    recorder, counts = Recorder(), []
    with mock.patch.object(relation_bias, "WIDER_WITHOUT_GPU", 1):
        for name, arch, dtype, sizes in steps:
            launches, known = recorder.launches, len(recorder.found)
            with mock.patch.dict(PRESETS[arch], layers=LAYERS):
                STEPS[name](arch, np.array(sizes), getattr(torch, dtype), recorder.launched)
            counts.append([recorder.launches - launches, len(recorder.found) - known])
    table = {identity(variant) for module in kernel_modules() for variant in variants_of(module)()}
    unknown = [repr(variant) for variant in recorder.found if identity(variant) not in table]
    return {"counts": counts, "wrong": recorder.wrong, "unknown": unknown}


def toy(x: Any, count: Any, SIZE: triton.language.constexpr) -> None:
    pass


def specialised(kernel: Any) -> tuple[int, int, int]:
    """Launches of a toy with six kinds of arguments, what would be compiled for them, and what is wrong with these."""
    recorder, memory = Recorder(), torch.zeros(64)
    for x, count, size in ((memory, 3, 2), (memory, 5, 2), (memory, 16, 2), (memory, 1, 2), (memory[1:], 3, 2), (memory, 3, 4)):
        recorder.launched(kernel, (x, count), {"SIZE": size, "num_warps": 2})
    return recorder.launches, len(recorder.found), len(recorder.wrong)


def specialised_or_not() -> list[tuple[int, int, int]]:
    """Of a toy as it is, and of one that is told not to be compiled for values."""
    driver.set_active(WithoutGPU())
    return [specialised(triton.jit(toy)), specialised(triton.jit(toy, do_not_specialize=["x", "count"]))]
