"""The baselines fitted beside a run: threads change neither what they predict nor how the process shows warnings."""

import sys
import warnings

import numpy as np
import pytest

from moleblend_fs.finetune import baselines


@pytest.fixture
def threads_that_take_turns_often():
    """So that two threads are inside of one function at once, as they are now and then anyway."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("kind", baselines.NAMES)
@pytest.mark.usefixtures("threads_that_take_turns_often")
def test_threads_change_neither_predictions_nor_how_warnings_are_shown(kind):
    """Every tree of the second forest warned: the first left the process without filters."""
    random = np.random.default_rng(0)
    bits = {name: random.integers(0, 2, (40, 64), dtype=np.uint8) for name in ("train", "valid", "test")}
    values = {name: bits[name][:, :1] + random.normal(0, 0.1, (40, 1)) for name in ("train", "valid")}
    labels = {name: (each > 0.5).astype(float) if kind == "classification" else each for name, each in values.items()}
    alone = baselines.predictions(bits, labels, kind, seed=1, jobs=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        for _ in range(2):
            beside = baselines.predictions(bits, labels, kind, seed=1, jobs=2)
            assert warnings.filters == filters
            assert {name: each.tobytes() for name, each in beside.items()} == {name: each.tobytes() for name, each in alone.items()}
    assert told == []
