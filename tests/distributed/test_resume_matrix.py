"""Every kind of run, stopped anywhere and started again with the same command, is the run without a stop; its best score too.

The whole matrix is 108 cases, half an hour on two cores: MOLEBLEND_WHOLE_MATRIX=1. Else every kind of run with every optimizer,
and with them all pairs of a stop and a number of processes.
"""

import itertools
import os
from pathlib import Path

import pytest

from tests.distributed import self_stopping_plugin
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, apart, checkpoint, differing, identical, zero
from tests.fairseq_plugins.runs import FINETUNE, NO_DROPOUT, PRETRAIN, SMALL, Run, arguments
from tests.support import forked_ranks

pytestmark = pytest.mark.slow
LAST = 10
"""Updates of a run: two epochs of 47 molecules, an update being two batches of 5."""
COMMON = (*SMALL, *NO_DROPOUT, "--batch-size", "5", "--batch-size-valid", "2", "--clip-norm", "5", "--adam-eps", "1e-5", "--lr", "1e-3")
KINDS = {
    "pretraining": (*PRETRAIN, *COMMON, "--lr", "1e-4"),
    "classification": (*FINETUNE, *COMMON, "--targets", "c", "--inputs", "2d+3d"),
    "regression": (*FINETUNE, *COMMON, "--targets", "y", "--inputs", "2d+3d"),
}
OPTIMIZERS = {"adam": ADAM, **{f"zero{stage}": zero(stage) for stage in (1, 2, 3)}}
STOPS = {"end of epoch": "update:5", "mid-epoch": "update:7", "during validation": "validation:1"}
PROCESSES = {"one": (1, 1), "two then one": (2, 1), "one then two": (1, 2)}
"""How many before and after the stop."""


def cases() -> list:
    """(kind, optimizer, stop, processes), see the module."""
    names = (list(KINDS), list(OPTIMIZERS), list(STOPS), list(PROCESSES))
    chosen = []
    for k, o, s, p in itertools.product(*(range(len(each)) for each in names)):
        if "MOLEBLEND_WHOLE_MATRIX" in os.environ or (s, p) == ((k + o) % 3, (k + 2 * o) % 3):
            case = [each[i] for each, i in zip(names, (k, o, s, p), strict=True)]
            chosen.append(pytest.param(*case, marks=() if case[1] == "adam" else needs_deepspeed, id="-".join(case)))
    return chosen


def go(store, folder: Path, *options: str, ranks: int = 2, stop: str | None = None) -> Run:
    """fairseq-train with a user directory that can stop itself."""
    environment = {} if stop is None else {self_stopping_plugin.VARIABLE: stop}
    words = arguments(
        store.path, folder, ("--user-dir", str(Path(self_stopping_plugin.__file__).parent), "--max-update", str(LAST), *options)
    )
    started = forked_ranks.start(words, ranks=ranks, logs=folder / "logs", environment=environment)
    try:
        assert started.wait(240) == [0] * ranks, started.output()[-3000:]
    finally:
        started.kill()
    output = started.output()
    return Run(0, output, folder, [(tag, values) for tag in ("train_inner", "valid") for values in forked_ranks.logged(output, tag)])


@pytest.fixture(scope="module")
def straight(store, tmp_path_factory):
    """Kind -> its run without a stop, on one process with Adam: ZeRO and other processes compute the same (`test_zero`)."""
    one = (*ADAM, "--update-freq", "2")
    return {kind: go(store, tmp_path_factory.mktemp(kind), *options, *one, ranks=1) for kind, options in KINDS.items()}


@pytest.mark.parametrize(("kind", "optimizer", "stop", "processes"), cases())
def test_a_run_that_was_stopped(store, straight, tmp_path, kind, optimizer, stop, processes):
    before, after = PROCESSES[processes]
    options = (*KINDS[kind], *OPTIMIZERS[optimizer], "--update-freq", str(2 // before))
    first = go(store, tmp_path, *options, ranks=before, stop=STOPS[stop])
    assert (tmp_path / "preempted").exists()
    second = go(store, tmp_path, *options, ranks=after)
    assert not (tmp_path / "preempted").exists()
    whole = straight[kind]
    for tag in ("train_inner", "valid"):
        assert differing([*first.logged(tag), *second.logged(tag)], whole.logged(tag), rel=0) == [], tag
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        ours, theirs = checkpoint(tmp_path, name), checkpoint(whole.folder, name)
        if (optimizer, processes) == ("adam", "one"):
            assert identical(ours, theirs), name
        assert apart(ours, theirs) < 1e-6, name
        assert updates(ours) == updates(theirs), name
        assert ours["extra_state"]["best"] == pytest.approx(theirs["extra_state"]["best"], rel=1e-5), name


def updates(content: dict) -> int:
    return content["optimizer_history"][-1]["num_updates"]


def test_the_best_score_can_be_lost(straight):
    """In the matrix there are runs whose best epoch is the first: forgetting its score would show."""
    assert updates(checkpoint(straight["regression"].folder, "checkpoint_best.pt")) == 5 < LAST
