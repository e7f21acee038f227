"""Runs of fairseq-train on several ranks, for tests."""

from pathlib import Path
from typing import Any

import torch

from moleblend_fs.checkpoint import zero_moments
from moleblend_fs.checkpoint.adam_state import to_table
from moleblend_fs.data.store import Store
from moleblend_fs.runtime.molecules_seen import VARIABLE
from tests.fairseq_plugins.runs import NO_DROPOUT, PRETRAIN, SMALL, Run, arguments
from tests.support import forked_ranks

BASE = (*PRETRAIN, *SMALL, *NO_DROPOUT, "--batch-size", "5", "--lr", "1e-3", "--clip-norm", "5")
QUIET = (*BASE, "--disable-validation")
ADAM = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.999)")
UNTIMED = ("_per_second", "wall", "ups")


def zero(stage: int) -> tuple[str, ...]:
    return ("--optimizer", "deepspeed", "--zero-stage", str(stage))


def launch(store: Store, folder: Path, *options: str, ranks: int = 2, ledger: str | None = None) -> forked_ranks.Ranks:
    """Start a run; `ledger` names the record of which molecules it saw, under the folder."""
    environment = {VARIABLE: str(folder / ledger)} if ledger else {}
    return forked_ranks.start(arguments(store.path, folder, (*QUIET, *options)), ranks=ranks, logs=folder / "logs", environment=environment)


def run(store: Store, folder: Path, *options: str, ranks: int = 2, ledger: str | None = None, code: int = 0) -> Run:
    """A run that ends by itself with the exit code."""
    started = launch(store, folder, *options, ranks=ranks, ledger=ledger)
    try:
        codes = started.wait(240)
    finally:
        started.kill()
    output = started.output()
    everyone = "\n".join(started.output(rank)[-1500:] for rank in range(ranks))
    assert codes == [code] * ranks, everyone
    return Run(code, output, folder, [(tag, values) for tag in ("train_inner", "valid") for values in forked_ranks.logged(output, tag)])


def checkpoint(folder: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    """A checkpoint's content, the optimizer's state as plain Adam saves it."""
    content = torch.load(folder / name, weights_only=True)
    stored = content["last_optimizer_state"]
    if "shards" in stored:
        shapes = {name: weight.shape for name, weight in content["model"].items()}
        content["last_optimizer_state"] = to_table(zero_moments.read(str(folder / name), stored, shapes).whole(shapes), list(shapes))
    return content


def differing(ours: list[dict], theirs: list[dict], rel: float, units: int = 1) -> list[str]:
    """Logged values, times apart, that differ by more than `rel` and by more than `units` of the last digit that is logged."""
    assert len(ours) == len(theirs) > 0
    wrong = []
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key in mine:
            a, b = float(mine[key]), float(other[key])
            unit = 1.1e-3 if key == "gnorm" else 1.1e-4
            if not key.endswith(UNTIMED) and abs(a - b) > max(rel * abs(b), units * unit):
                wrong.append(f"update {mine['num_updates']}: {key} {a} {b}")
    return wrong


def apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest difference of two checkpoints' weights."""
    return max(float((ours["model"][name] - theirs["model"][name]).abs().max()) for name in theirs["model"])


def identical(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether weights and Adam's moments of two checkpoints are the same bit for bit."""
    a, b = ours["last_optimizer_state"], theirs["last_optimizer_state"]
    moments = all(torch.equal(a["state"][i][key], b["state"][i][key]) for i in b["state"] for key in ("exp_avg", "exp_avg_sq"))
    steps = [entry["step"] for entry in a["state"].values()] == [entry["step"] for entry in b["state"].values()]
    return moments and steps and all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])
