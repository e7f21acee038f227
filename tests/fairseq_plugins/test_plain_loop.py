"""Training through fairseq against a plain loop written out here: the same weights, moments and logged digits, bit for bit.

Stored digits would be those of one processor: libraries add up in the order that suits it. Both runs are made on this one instead, 30
updates each, with three micro-batches in each update, dropout, clipping, weight decay and a warm-up. Adam is written out for
`--use-old-adam`; the one that is used otherwise is held against fairseq's in `test_fused_adam.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from fairseq_plugins.patches.fused_adam import OnePassAdam
from moleblend_fs.checkpoint.adam_state import MOMENTS
from moleblend_fs.checkpoint.read import load, read_torch_file
from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.registry import objectives
from moleblend_fs.ops.layout import Layout
from moleblend_fs.runtime.molecules_seen import VARIABLE, read
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, Run, train

UPDATES, SEED = 30, 1
MICRO_BATCH, MICRO_BATCHES = 13, 3
"""Molecules, and how many of an update. 117 molecules of training are three whole updates."""
LR, WARMUP, BETAS, EPS, DECAY, CLIP = 1e-3, 4, (0.9, 0.999), 1e-8, 0.01, 15.0
OPTIONS = (
    *(*SMALL, *ADAM, "--weight-decay", str(DECAY), "--clip-norm", str(CLIP), "--warmup-updates", str(WARMUP), "--disable-validation"),
    *("--batch-size", str(MICRO_BATCH), "--update-freq", str(MICRO_BATCHES), "--max-update", str(UPDATES), "--save-interval", "100"),
)

Sums = Callable[[MoleBlend, MoleculeBatch, Layout, int], tuple[Callable[[], Tensor], Tensor]]
"""Of a micro-batch in an epoch: (what computes the sums of its losses, the counts)."""


@dataclass
class PlainLoop:
    """A model, trained without fairseq: forward, backward, clip, Adam.

    Attributes:
        one_pass: whether Adam is the one of training on CPUs, and not fairseq's, which is written out.
        first, second: Adam's moments. mean_losses: of each update, by loss. norms: of each update's gradient, before clipping.
    """

    config: ModelConfig
    weights: tuple[float, ...]
    sums: Sums
    one_pass: bool = False
    mean_losses: list[list[float]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(SEED)
        self.model = MoleBlend(self.config)
        self.parameters = dict(self.model.named_parameters())
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.optimizer = OnePassAdam(self.parameters.values(), betas=BETAS, eps=EPS, weight_decay=DECAY)

    def update(self, number: int, epoch: int, batches: list[MoleculeBatch]) -> None:
        torch.manual_seed(SEED + number - 1)  # of dropout
        self.model.zero_grad()
        prepared = [self.sums(self.model, batch, Layout(batch.num_atoms, torch.device("cpu"), merged=True), epoch) for batch in batches]
        counts = torch.stack([counts for _, counts in prepared]).sum(dim=0)
        totals = torch.zeros_like(counts)
        for compute, _ in prepared:
            sums = compute()
            loss = (torch.tensor(self.weights) * (sums / counts.float())).sum()
            loss.backward()
            totals += sums.detach().double()
        self.mean_losses.append((totals / counts).tolist())
        self.clip()
        self.adam(number, LR * min(1.0, number / WARMUP))

    def clip(self) -> None:
        squares = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in self.parameters.values() if p.grad is not None]
        norm = torch.stack(squares).square().sum().sqrt().float()
        self.norms.append(float(norm))
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_((CLIP / (norm + 1e-6)).clamp(max=1))

    @torch.no_grad()
    def adam(self, step: int, lr: float) -> None:
        if self.one_pass:
            self.optimizer.param_groups[0]["lr"] = lr
            self.optimizer.step()
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    self.first[name], self.second[name] = (self.optimizer.state[parameter][key] for key in MOMENTS)
            return
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            self.first[name].mul_(BETAS[0]).add_(parameter.grad, alpha=1 - BETAS[0])
            self.second[name].mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
            size = lr * math.sqrt(1 - BETAS[1] ** step) / (1 - BETAS[0] ** step)
            parameter.add_(parameter, alpha=-DECAY * lr)
            parameter.addcdiv_(self.first[name], self.second[name].sqrt().add_(EPS), value=-size)


def follow(loop: PlainLoop, store: Store, record: str) -> None:
    """Train on the molecules that fairseq's run saw, in the order in which it saw them."""
    place = {int(row): index for index, row in enumerate(store.source_row)}
    training = {int(store.source_row[index]) for index in store.split("train")}
    seen = read(record)
    assert list(seen) == list(range(1, UPDATES + 1))
    for first in range(1, UPDATES, 3):
        assert sorted(molecule for number in range(first, first + 3) for molecule in seen[number][1]) == sorted(training)
    for number, (epoch, molecules) in seen.items():
        batches = np.split(np.array([place[molecule] for molecule in molecules]), MICRO_BATCHES)
        loop.update(number, epoch, [collate(store.records(batch), 0) for batch in batches])


def same(run: Run, loop: PlainLoop) -> None:
    """All weights and both moments, bit for bit, and gradient norms to the last logged digit."""
    weights, content = run.weights(), read_torch_file(run.folder / "checkpoint_last.pt")
    assert list(weights) == list(loop.model.state_dict())
    for name, value in loop.model.state_dict().items():
        assert torch.equal(weights[name], value), name
    state = content["last_optimizer_state"]
    for index, name in enumerate(saved.removeprefix("model.") for saved in state["names"]):
        if index in state["state"]:
            assert torch.equal(state["state"][index]["exp_avg"], loop.first[name]), name
            assert torch.equal(state["state"][index]["exp_avg_sq"], loop.second[name]), name
    assert run.column("train_inner", "gnorm") == [round(norm, 3) for norm in loop.norms]


@pytest.fixture(autouse=True)
def one_thread():
    """More threads add up in other orders."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_pretraining_is_the_plain_loop(qm9_store, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "record"))
    run = train(qm9_store.path, tmp_path / "run", *PRETRAIN, *OPTIONS, "--use-old-adam")
    assert run.code == 0, run.output[-2000:]
    kind = objectives()["blend_then_predict"]
    objective = kind(kind.Options())

    def sums(model, batch, layout, epoch):
        prepared = objective.prepare(batch, layout, seed=SEED, epoch=epoch)
        return lambda: objective.loss_sums(model, prepared), prepared.counts

    terms = objective.terms()
    loop = PlainLoop(load(tmp_path / "run" / "checkpoint_last.pt").config, tuple(term.weight for term in terms), sums)
    follow(loop, qm9_store, str(tmp_path / "record"))
    same(run, loop)
    assert min(loop.norms) < CLIP < max(loop.norms), "some updates must be clipped, some not"
    for index, term in enumerate(terms):
        assert run.column("train_inner", f"{term.name}_loss") == [round(means[index], 4) for means in loop.mean_losses]


@pytest.mark.slow
def test_finetuning_is_the_plain_loop(qm9_store, tmp_path, monkeypatch):
    """Squared error of a scaled label, from 2D and 3D."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "record"))
    run = train(qm9_store.path, tmp_path / "run", *FINETUNE, *OPTIONS, "--targets", "gap", "--inputs", "2d+3d")
    assert run.code == 0, run.output[-2000:]
    column = qm9_store.manifest.label_index("gap")
    statistics = qm9_store.manifest.statistics["train"][column]
    assert statistics is not None

    def sums(model, batch, layout, epoch):
        shown = show_all(batch, layout, "2d+3d")
        label = (batch.labels[:, [column]] - statistics.mean) / statistics.std
        assert batch.has_label[:, column].all()
        compute = lambda: (model(batch, shown, layout).properties - label.float()).square().sum().reshape(1)  # noqa: E731
        return compute, torch.tensor([float(len(batch))], dtype=torch.float64)

    loop = PlainLoop(load(tmp_path / "run" / "checkpoint_last.pt").config, (1.0,), sums, one_pass=True)
    follow(loop, qm9_store, str(tmp_path / "record"))
    same(run, loop)
    assert run.column("train_inner", "loss") == [round(means[0], 4) for means in loop.mean_losses]
