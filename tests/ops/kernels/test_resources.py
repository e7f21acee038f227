"""Every kernel configuration compiles for sm_80 and sm_90, spills nothing and needs what the committed table says.

What the table has of kernels that are still the same was compiled when it was written: one in sixteen of these is compiled again.
"""

import importlib
from dataclasses import replace
from importlib.metadata import version

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
from tests.support.without_interpreter import compiling


@pytest.fixture(scope="module")
def compiler():
    """What the interpreter runs cannot be compiled: calls in another process."""
    with compiling() as calls:
        yield calls


@pytest.fixture
def same_triton():
    versions = {r.triton for r in read_table()}
    if versions != {version("triton")}:
        pytest.skip(f"the table is of triton {versions}, installed is {version('triton')}")


@pytest.mark.slow
def test_every_configuration_compiles_as_the_table_says(compiler, same_triton):
    status, printed = compiler("tests.support.compiled_kernels:check_the_table")
    assert status == 0
    assert f"{len(read_table())} configurations, 0 problems" in printed


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
    row = replace(sealed(toy(), GOOD), triton=version("triton"))
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


def test_the_table_is_of_the_code_that_is_there(compiler, same_triton):
    """Where it is not, all that it has of a changed kernel is compiled in every CI."""
    remedy = "python -m benchmarks kernel_resources compiles all and writes the table anew"
    assert not compiler("tests.support.compiled_kernels:stale"), remedy


@pytest.mark.parametrize("module", kernel_modules())
def test_variants_are_named_once_and_have_all_arguments(module):
    """Every argument of every kernel has a type or a value."""
    found = variants_of(module)()
    assert len({variant.name for variant in found}) == len(found) > 0
    for variant in found:
        assert set(variant.signature) | set(variant.constexprs) == set(variant.function.arg_names), variant.name
        assert not set(variant.signature) & set(variant.constexprs), variant.name


def test_spills_are_seen(compiler):
    """The same tiles on a quarter of the threads have not enough registers."""
    fits, spills = compiler("tests.support.compiled_kernels:spilled")
    assert fits == 0
    assert spills > 100


def test_changed_numbers_are_not_believed(compiler):
    assert compiler("tests.support.compiled_kernels:changed_numbers_are_measured")


def test_what_does_not_compile_is_named(compiler):
    said = compiler("tests.support.compiled_kernels:not_compiling")
    assert said.startswith("pair_projection: name does not compile, or not safely, for sm_90")


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
