"""What real steps launch is what stands in the table of resources, compiled for sm_80 and sm_90 and without spills; and batches of other
sizes launch the same kernels, so that nothing is compiled in the middle of a run.

The steps run on tensors without content; Triton's just-in-time compiler looks at every launch as on a GPU, up to compiling.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.sizes import draw_sizes

ROOT = Path(__file__).resolve().parents[3]
# What the interpreter runs is not compiled: a process of its own, without TRITON_INTERPRET.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

ALL_CLASSES = [1, 9, 22, 40, 70, 200]
"""Molecules of all size classes of attention."""
ROUND, LEAST = [16] * 16, [1]
"""Batches whose counts are multiples of 16, or 1: Triton compiles anew for both, unless it is told not to."""


def last_line(*command: str):
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_real_steps_launch_what_the_table_has_whatever_the_sizes(tmp_path):
    """As many kernels as pretraining and finetuning need for molecules of all sizes, and none more for others."""
    typical = [int(size) for size in draw_sizes("pcqm4mv2", 300, seed=0)]
    steps = [
        ("pretraining", "base", "bfloat16", ALL_CLASSES + typical),
        *(("pretraining", "base", "bfloat16", sizes) for sizes in (typical[:99], ROUND, LEAST)),
        ("finetuning", "base", "bfloat16", ALL_CLASSES),
        *(("finetuning", "base", "bfloat16", sizes) for sizes in (ROUND, LEAST)),
        ("predicting", "base", "bfloat16", ALL_CLASSES),
        ("pretraining", "tiny", "float16", ALL_CLASSES),
        ("finetuning", "small", "float32", ALL_CLASSES),
        ("predicting", "small", "float32", ROUND),
    ]
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    found = last_line("-m", "tests.support.recorded_launches", str(tmp_path / "steps.json"))
    assert found["unknown"] == [], "add them to the op's variants.py"
    assert found["wrong"] == []
    launches, new = zip(*found["counts"], strict=True)
    assert min(launches) > 0
    assert new[0] < 60, "all that pretraining on all sizes compiles"
    assert new[1:7] == (0,) * 6, "of other sizes, and in finetuning"
    assert new[7] == 1, "predicting drops nothing of GELU's values"


SPECIALIZING = """
import json
import torch, triton
from triton.runtime.driver import driver
from tests.support.recorded_launches import Recorder, WithoutGPU

def toy(x, count, SIZE: triton.language.constexpr):
    pass

def launches(kernel):
    recorder, memory = Recorder(), torch.zeros(64)
    for x, count, size in ((memory, 3, 2), (memory, 5, 2), (memory, 16, 2), (memory, 1, 2), (memory[1:], 3, 2), (memory, 3, 4)):
        recorder.launched(kernel, (x, count), {"SIZE": size, "num_warps": 2})
    return recorder.launches, len(recorder.found), len(recorder.wrong)

driver.set_active(WithoutGPU())
print(json.dumps([launches(triton.jit(toy)), launches(triton.jit(toy, do_not_specialize=["x", "count"]))]))
"""


def test_arguments_that_are_compiled_for_are_seen(tmp_path):
    """A multiple of 16, a 1 and an address that is none are compiled for, and three of them said; a constant's values are as meant."""
    script = tmp_path / "script.py"  # Triton reads a kernel's source from a file
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{SPECIALIZING}")
    assert last_line(str(script)) == [[6, 5, 3], [6, 2, 0]]
