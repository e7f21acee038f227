"""What real steps launch is what stands in the table of resources, compiled for sm_80 and sm_90 and without spills; and batches of other
sizes launch the same kernels, so that nothing is compiled in the middle of a run.

The steps run on tensors without content; Triton's just-in-time compiler looks at every launch as on a GPU, up to compiling.
"""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.sizes import draw_sizes
from tests.support.without_interpreter import compiling

ALL_CLASSES = [1, 9, 22, 40, 70, 200]
"""Molecules of all size classes of attention."""
ROUND, LEAST = [16] * 16, [1]
"""Batches whose counts are multiples of 16, or 1: Triton compiles anew for both, unless it is told not to."""


@pytest.fixture(scope="module")
def compiler():
    """What the interpreter runs is not compiled: calls in another process."""
    with compiling() as calls:
        yield calls


@pytest.mark.slow
def test_real_steps_launch_what_the_table_has_whatever_the_sizes(compiler):
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
    found = compiler("tests.support.recorded_launches:main", steps)
    assert found["unknown"] == [], "add them to the op's variants.py"
    assert found["wrong"] == []
    launches, new = zip(*found["counts"], strict=True)
    assert min(launches) > 0
    assert new[0] < 60, "all that pretraining on all sizes compiles"
    assert new[1:7] == (0,) * 6, "of other sizes, and in finetuning"
    assert new[7] == 1, "predicting drops nothing of GELU's values"


def test_arguments_that_are_compiled_for_are_seen(compiler):
    """A multiple of 16, a 1 and an address that is none are compiled for, and three of them said; a constant's values are as meant."""
    assert compiler("tests.support.recorded_launches:specialised_or_not") == [[6, 5, 3], [6, 2, 0]]
