"""Self-tests find their kernels compiled: by several threads, in Triton's cache, for the GPU that a driver tells of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[3]
# What the interpreter runs is not compiled: a process of its own, without TRITON_INTERPRET.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def walked(cache: Path, *arguments: str) -> dict:
    """What `tests.support.compiled_ahead` tells."""
    command = [sys.executable, "-m", "tests.support.compiled_ahead", *arguments]
    environment = {**ENVIRONMENT, "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("model", [("80", "tiny", "float16"), ("90", "base", "bfloat16")])
def test_self_tests_find_all_that_they_launch_compiled(model, tmp_path):
    """By two threads; then one launch after the other in another process, as the self-tests proper make them."""
    ahead = walked(tmp_path, "ahead", *model)
    assert ahead["compiled"] == [ahead["kernels"], ahead["kernels"], 0]
    assert ahead["kernels"] >= 40
    assert ahead["threads"] == 2
    assert ahead["launched"] == 0
    ops = "relation_bias, attention, residual_norm, gelu_dropout, pair_projection, atom_forces"
    assert ahead["said"][0] == f"compiling {ahead['kernels']} kernels ({ops}) for cpu on 2 cores, unless in {tmp_path} from before"
    assert walked(tmp_path, "after", *model) == {"kernels": ahead["kernels"], "new": 0}
    assert walked(tmp_path, "after", model[0], "small", "float32", "gelu_dropout") == {"kernels": 3, "new": 3}, "of another model"


def test_what_does_not_compile_is_left_to_the_self_test(tmp_path):
    """The others are compiled all the same; what fails fails again where it is launched, and is told there."""
    assert walked(tmp_path, "broken", "90") == {"compiled": [3, 2, 1], "again": "CompilationError"}
