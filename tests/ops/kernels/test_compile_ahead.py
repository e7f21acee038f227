"""Self-tests find their kernels compiled: by several threads, in Triton's cache, for the GPU that a driver tells of."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from tests.support.without_interpreter import compiling

ALL = "relation_bias, attention, residual_norm, gelu_dropout, pair_projection, atom_forces"
"""Ops, in the order in which a model asks for their kernels."""


@pytest.fixture(scope="module")
def compiler():
    """What the interpreter runs is not compiled: calls in another process, each in a fork of its own."""
    with compiling() as calls:
        yield calls


@pytest.fixture
def walked(compiler, tmp_path):
    """What `tests.support.compiled_ahead` tells, with a cache in `tmp_path`."""
    return lambda *arguments: compiler("tests.support.compiled_ahead:call", *arguments, TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "ops", "least"),
    [((80, "tiny", "float16", "attention"), "attention", 8), ((90, "base", "bfloat16"), ALL, 40)],
    ids=["attention", "all"],
)
def test_self_tests_find_all_that_they_launch_compiled(model, ops, least, walked, tmp_path):
    """By two threads; then one launch after the other in another process, as the self-tests proper make them."""
    ahead = walked("ahead", *model)
    assert ahead["compiled"] == [ahead["kernels"], ahead["kernels"], 0]
    assert ahead["kernels"] >= least
    assert ahead["threads"] == 2
    assert ahead["launched"] == 0
    assert ahead["said"][0] == f"compiling {ahead['kernels']} kernels ({ops}) for cpu on 2 cores, unless in {tmp_path} from before"
    assert walked("after", *model) == {"kernels": ahead["kernels"], "new": 0}
    assert walked("after", model[0], "small", "float32", "gelu_dropout") == {"kernels": 3, "new": 3}, "of another model"


def test_what_does_not_compile_is_left_to_the_self_test(walked):
    """The others are compiled all the same; what fails fails again where it is launched, and is told there."""
    assert walked("broken", 90) == {"compiled": [3, 2, 1], "again": "CompilationError"}
