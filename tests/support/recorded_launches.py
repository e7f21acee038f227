"""What Triton would compile for a GPU that is not there: its own just-in-time compiler specialises each launch, which is noted and not run.

    python -m tests.support.recorded_launches STEPS.json

For a process of its own, without Triton's interpreter. STEPS.json lists [step, arch, dtype, sizes of molecules], see `STEPS`; printed is,
for each of them, how many launches there were and how many kernels had to be compiled for them, and of all launches together what is wrong.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from benchmarks.budget import count_finetuning, count_update
from benchmarks.kernel_resources import ARCHITECTURES, kernel_modules, variants_of
from moleblend_fs.ops.kernel_common import Variant
from moleblend_fs.ops.relation_bias import launch as relation_bias

STEPS = {
    "pretraining": count_update,
    "finetuning": count_finetuning,
    "predicting": functools.partial(count_finetuning, training=False),
}
"""Real steps, on tensors without content."""
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
    """Launches and new kernels of each step, arguments that are compiled anew for, and kernels that the table of resources lacks."""
    driver.set_active(WithoutGPU())
    recorder, counts = Recorder(), []
    with mock.patch.object(relation_bias, "WIDER_WITHOUT_GPU", 1):
        for name, arch, dtype, sizes in steps:
            launches, known = recorder.launches, len(recorder.found)
            STEPS[name](arch, np.array(sizes), getattr(torch, dtype), recorder.launched)
            counts.append([recorder.launches - launches, len(recorder.found) - known])
    table = {identity(variant) for module in kernel_modules() for variant in variants_of(module)()}
    unknown = [repr(variant) for variant in recorder.found if identity(variant) not in table]
    return {"counts": counts, "wrong": recorder.wrong, "unknown": unknown}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
