"""Every kernel configuration compiles for sm_80 and sm_90, spills nothing and needs what the committed table says.

What the table has of kernels that are still the same was compiled when it was written: one in sixteen of these is compiled again.
"""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks import kernel_resources
from benchmarks.__main__ import main
from benchmarks.kernel_resources import (
    ARCHITECTURES,
    Resources,
    believable,
    kernel_modules,
    problems,
    read_table,
    sealed,
    variants_of,
)
from moleblend_fs.errors import UserError
from moleblend_fs.ops.kernel_common import Variant

ROOT = Path(__file__).resolve().parents[3]

# What the interpreter runs cannot be compiled: a process of its own, without TRITON_INTERPRET.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

SPILLING = """
from dataclasses import replace
from benchmarks.kernel_resources import compiled, measure, read_table
from moleblend_fs.ops.pair_projection.variants import variants
variant = next(v for v in variants() if v.name == "pair_edge/bf16/32/with gradient")
crowded = variant._replace(num_warps=variant.num_warps // 4)
print([compiled("pair_projection", v, 90).spilled for v in (variant, crowded)])
rows = [r for r in read_table() if r.module == "blend"]
assert measure(["blend"], 1, [replace(r, registers=r.registers + 1) for r in rows]) == (rows, []), "changed numbers are not believed"
"""


def run(*command):
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.slow
def test_every_configuration_compiles_as_the_table_says():
    versions = {r.triton for r in read_table()}
    if versions != {importlib.metadata.version("triton")}:
        pytest.skip(f"the table is of triton {versions}, installed is {importlib.metadata.version('triton')}")
    done = run("-m", "benchmarks", "--no-save", "kernel_resources", "--check")
    assert done.returncode == 0, done.stderr
    assert f"{len(read_table())} configurations, 0 problems" in done.stdout


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that writes a kernel's module, and one that it imports, and gives the kernel's variant."""
    (tmp_path / "toy_ops").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kernel_resources, "PACKAGE", "toy_ops")
    kernel = type("Kernel", (), {"__module__": "toy_ops.kernels", "__name__": "kernel"})

    def write(kernels="def kernel(x):\n    return x + parts.LIMIT\n", parts="LIMIT = 3\n", warps=4, constant=2):
        for name, text in {"__init__": "", "parts": parts, "kernels": f"from toy_ops import parts\n{kernels}"}.items():
            (tmp_path / "toy_ops" / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        kernel_resources.code_of.cache_clear()
        return Variant("v", kernel, {"x": "*fp32"}, {"N": constant}, warps, 2)

    yield write
    kernel_resources.code_of.cache_clear()


def test_a_row_is_believed_while_it_and_its_kernel_are_what_they_were(toy, monkeypatch):
    """A comment changes nothing; code, code that it imports, a constant, a launch, Triton and the row's own numbers do."""
    row = replace(sealed(toy(), GOOD), triton=importlib.metadata.version("triton"))
    assert believable(toy(), row)
    assert believable(toy(kernels='# more\n\ndef kernel(x):\n    """Text."""\n    return x + parts.LIMIT\n'), row)
    for change in ({"kernels": "def kernel(x):\n    return x - parts.LIMIT\n"}, {"parts": "LIMIT = 4\n"}, {"warps": 8}, {"constant": 3}):
        assert not believable(toy(**change), row)
    for change in ({"registers": 101}, {"spilled": 8}, {"shared": 0}, {"architecture": 90}, {"variant": "w"}):
        assert not believable(toy(), replace(row, **change))
    assert believable(toy(), row)
    monkeypatch.setattr(kernel_resources, "version", lambda package: "3.7.0")
    assert not believable(toy(), row)


def test_all_kernels_stand_in_the_table():
    assert {r.module for r in read_table()} == set(kernel_modules())
    assert {r.architecture for r in read_table()} == set(ARCHITECTURES)


@pytest.mark.parametrize("module", kernel_modules())
def test_variants_are_named_once_and_have_all_arguments(module):
    """Every argument of every kernel has a type or a value."""
    found = variants_of(module)()
    assert len({variant.name for variant in found}) == len(found) > 0
    for variant in found:
        assert set(variant.signature) | set(variant.constexprs) == set(variant.function.arg_names), variant.name
        assert not set(variant.signature) & set(variant.constexprs), variant.name


def test_spills_are_seen():
    """The same tiles on a quarter of the threads have not enough registers."""
    done = run("-c", SPILLING)
    assert done.returncode == 0, done.stderr
    fits, spills = json.loads(done.stdout)
    assert fits == 0
    assert spills > 100


NOT_COMPILING = """
import triton
import triton.language as tl
from benchmarks import kernel_resources
from moleblend_fs.ops.pair_projection import variants
from moleblend_fs.ops.kernel_common import Variant

@triton.jit
def changes_type(x):
    k = tl.program_id(0)
    while k < 3:
        k = k + 0.5
    tl.store(x, k)

variants.variants = lambda: [Variant("name", changes_type, {"x": "*fp32"}, {}, 4, 2)]
print(kernel_resources._measure_one("pair_projection", 0, 90))
"""


def test_what_does_not_compile_is_named(tmp_path):
    script = tmp_path / "script.py"  # Triton reads a kernel's source from a file
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{NOT_COMPILING}")
    done = run(str(script))
    assert done.stdout.startswith("pair_projection: name does not compile, or not safely, for sm_90"), done.stderr


def test_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UserError, match="TRITON_INTERPRET"):
        main(["--no-save", "kernel_resources"])


GOOD = Resources(module="m", variant="v", architecture=80, warps=4, stages=2, registers=100, shared=1000, spilled=0, triton="3.6.0")


@pytest.mark.parametrize(
    ("measured", "table", "said"),
    [
        ([GOOD], [GOOD], []),
        ([replace(GOOD, spilled=8)], [replace(GOOD, spilled=8)], ["spills 8 bytes"]),
        ([replace(GOOD, shared=200_000)], [replace(GOOD, shared=200_000)], ["200000 bytes of shared memory"]),
        ([replace(GOOD, shared=200_000, architecture=90)], [replace(GOOD, shared=200_000, architecture=90)], []),
        ([replace(GOOD, registers=101)], [GOOD], ["registers=101"]),
        ([replace(GOOD, registers=101, triton="3.7.0")], [GOOD], []),
        ([GOOD, replace(GOOD, variant="w")], [GOOD], ["m: w on sm_80 is not in"]),
        ([GOOD], [GOOD, replace(GOOD, architecture=90)], ["m: v on sm_90 stands in"]),
        ([GOOD, GOOD], [GOOD], ["the same name"]),
    ],
    ids=range(9),
)
def test_problems(measured, table, said):
    found = problems(measured, table)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))
