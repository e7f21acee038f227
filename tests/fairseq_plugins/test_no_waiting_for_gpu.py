"""Updates between two lines of the log read nothing from the device: on a GPU each such reading waits until all work is done.

On a CPU there is nothing to wait for, but the same calls are made, and are counted here.
"""

from collections import Counter, defaultdict

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_plugins.trainer import MoleBlendTrainer
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, train

READS = {"item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__"}
"""Methods of tensors whose result is on the host; reads from within torch show as the operator `_local_scalar_dense`."""
MICRO_BATCHES, INTERVAL, UPDATES = 2, 2, 4
ALWAYS = {
    "numpy": MICRO_BATCHES,  # of `num_atoms`, which is kept on the host for that
    "__bool__": 1,  # fairseq's question whether the norm is finite that it was given: a zero made on the host
    "_local_scalar_dense": 1,  # the same
}


class Reads:
    """What is read in each update, and after it until the next."""

    def __init__(self) -> None:
        self.update = 0
        self.of_update: defaultdict[int, Counter] = defaultdict(Counter)

    def note(self, name: str) -> None:
        self.of_update[self.update][name] += 1


class Methods(TorchFunctionMode):
    def __init__(self, reads: Reads):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if (name := getattr(function, "__name__", "")) in READS:
            self.reads.note(name)
        return function(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self, reads: Reads):
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.reads.note("_local_scalar_dense")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [PRETRAIN, (*FINETUNE, "--targets", "gap")], ids=["pretraining", "finetuning"])
def test_nothing_is_read_between_log_intervals(kind, qm9_store, tmp_path, monkeypatch):
    reads, step = Reads(), MoleBlendTrainer.train_step

    def numbered(trainer, *args, **kwargs):
        reads.update = trainer.get_num_updates() + 1
        with Methods(reads), Operators(reads):
            return step(trainer, *args, **kwargs)

    monkeypatch.setattr(MoleBlendTrainer, "train_step", numbered)
    monkeypatch.setattr(MoleBlendTrainer, "defers", property(lambda _: True))  # as on GPUs
    options = ("--batch-size", "4", "--update-freq", str(MICRO_BATCHES), "--max-update", str(UPDATES), "--log-interval", str(INTERVAL))
    run = train(qm9_store.path, tmp_path, *kind, *SMALL, *ADAM, *options, "--no-save", "--disable-validation")
    assert run.code == 0, run.output[-2000:]
    assert len(run.logged("train_inner")) == UPDATES // INTERVAL
    for update in range(1, UPDATES + 1):
        due = {"tolist": 1} if update % INTERVAL == 0 else {}  # whether all updates since the last time were finite, at once
        assert reads.of_update[update] == Counter({**ALWAYS, **due}), f"update {update}"
