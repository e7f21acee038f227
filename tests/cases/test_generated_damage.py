"""Stores, checkpoints, results and logs with random damage: a message, or the very result that the whole file gives."""

import json
import random
import shutil
from pathlib import Path

import pytest

from moleblend_fs.data.store import Store
from tests.cases.commands import moleblend
from tests.cases.test_generated_sources import damaged
from tests.inference.untrained_models import untrained

STORES, CHECKPOINTS, RUNS = 60, 40, 14
"""How many of each are damaged."""


def predictions(checkpoint: Path, store: Path, out: Path) -> str | None:
    """What `predict` writes; None where it refuses, and then there is no file."""
    out.unlink(missing_ok=True)
    done = moleblend("predict", checkpoint, store, out)
    assert out.exists() == (done.code == 0)
    return out.read_text() if done.code == 0 else None


def test_damaged_stores(base: Store, trained, tmp_path):
    """Predictions are those of the whole store or refused; what is damaged and read is at least noticed by --verify."""
    right = predictions(trained, base.path, tmp_path / "right.csv")
    assert right is not None
    names = sorted(path.name for path in base.path.iterdir())
    refused = noticed = 0
    for seed in range(STORES):
        generator = random.Random(seed)
        store = tmp_path / str(seed)
        shutil.copytree(base.path, store)
        name = names[seed % len(names)]
        content = damaged((base.path / name).read_bytes(), generator)
        unchanged = content == (base.path / name).read_bytes()
        (store / name).write_bytes(content)
        verified = moleblend("inspect", store, "--verify").code
        found = predictions(trained, store, tmp_path / "out.csv")
        same_table = found is not None and found.replace(str(store), "") == right.replace(str(base.path), "")
        assert found is None or same_table or verified != 0, f"seed {seed}: {name} gave other predictions unseen"
        assert found is None or same_table or name in ("failures.csv", "manifest.json"), f"seed {seed}: {name} gave other predictions"
        noticed += verified != 0 or unchanged
        refused += found is None
        if name.endswith(".npy"):
            assert verified != 0 or same_table
        shutil.rmtree(store)
    print(f"{STORES} stores: {noticed} noticed by --verify, {refused} refused by predict")
    assert noticed > STORES / 2


@pytest.mark.parametrize("form", ["checkpoint", "folder"])
def test_damaged_checkpoints(form, base: Store, trained, tmp_path):
    """Weights have a checksum: a changed byte is told, or was of no account."""
    whole = trained
    if form == "folder":
        whole = untrained(tmp_path / "folder", targets=("logS",))
    right = predictions(whole, base.path, tmp_path / "right.csv")
    assert right is not None
    files = [whole] if whole.is_file() else sorted(whole.iterdir())
    refused = 0
    for seed in range(CHECKPOINTS):
        path = files[seed % len(files)]
        copy = tmp_path / f"{seed}"
        if whole.is_file():
            copy.write_bytes(damaged(path.read_bytes(), random.Random(seed)))
        else:
            shutil.copytree(whole, copy)
            (copy / path.name).write_bytes(damaged(path.read_bytes(), random.Random(seed)))
        found = predictions(copy, base.path, tmp_path / "out.csv")
        assert found in (None, right), f"seed {seed}: other predictions from {path.name}"
        refused += found is None
        if seed % 4 == 0:
            moleblend("evaluate", copy, base.path, "--split", "test")
    print(f"{CHECKPOINTS} of form {form}: {refused} refused")
    assert refused > CHECKPOINTS / 2


def test_damaged_results_and_logs(base: Store, trained, tmp_path):
    """report and inspect of folders of runs whose files were cut or changed."""
    run = tmp_path / "run"
    run.mkdir()
    assert moleblend("evaluate", trained, base.path, "--split", "test", "--json", run / "test.json").code == 0
    entry = json.dumps({"epoch": 1, "train_loss": "1.5", "train_num_updates": "2"})
    (run / "train.log").write_text(f"2026-01-01 00:00:00 | INFO | train | {entry}\n" * 5)
    assert moleblend("report", run, "--output", tmp_path / "whole.html").code == 0
    ends = {0: 0, 1: 0, 2: 0}
    for seed in range(RUNS):
        name = ("test.json", "train.log")[seed % 2]
        copy = tmp_path / str(seed)
        shutil.copytree(run, copy)
        (copy / name).write_bytes(damaged((run / name).read_bytes(), random.Random(seed)))
        done = moleblend("report", copy, "--output", copy / "report.html")
        ends[done.code] += 1
        assert (copy / "report.html").exists() == (done.code == 0)
        if done.code:
            assert name in done.said
    print(f"{RUNS} folders of runs: {ends[0]} drawn, {ends[2]} refused")
    assert ends[1] == 0
