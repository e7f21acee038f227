"""The most bytes of tensors that a training step holds on a CPU, counted, beside what `planning.estimate` says before it."""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.harness import ROOT, Row, row
from benchmarks.measure import peak_bytes
from benchmarks.scaling import batch_of
from benchmarks.step import random_batch
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend, targets_of
from moleblend_fs.ops.layout import Layout
from moleblend_fs.planning.estimate import Setup, estimate, parameter_sizes

PREDICT = BlendConfig().predict
HEADS = {"pretraining": PREDICT, "finetuning": ("property",)}
SIZES = {"small": (8, 32), "base": (16,)}
"""Model -> molecules of a step. The factors of the estimate were fitted to steps of `small` alone."""


def main(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        sample = ROOT / "examples/quickstart/qm9_sample.csv.xz"
        subprocess.run(
            [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", "qm9", sample, store], cwd=ROOT, check=True, capture_output=True
        )
        for arch, sizes in SIZES.items():
            ways = [(title, half) for title in HEADS for half in (False, True)] if arch == "small" else [("pretraining", False)]
            for title, half in ways:
                config = replace(ModelConfig(**PRESETS[arch], heads=PREDICT), heads=HEADS[title])
                for molecules in sizes:
                    batch = random_batch(Store(store), molecules)
                    counted = step_bytes(config, batch, half)
                    memory = estimate(parameter_sizes(config), config, batch_of(batch.num_atoms.numpy()), Setup(half=half))
                    expected = memory.peak - memory.weights - memory.optimizer
                    case = f"{arch}, {title}, {'bfloat16' if half else 'float32'}, {molecules} molecules of QM9 with hydrogens"
                    rows.append(row("memory", case, "most bytes of tensors", "MiB", [counted / 2**20]))
                    rows.append(row("memory", case, "estimated / counted", "x", [expected / counted], target="0.8 to 1.2"))
    return rows


def step_bytes(config: ModelConfig, batch: MoleculeBatch, half: bool) -> int:
    """The most bytes of tensors that forward and backward pass hold beside the weights."""
    blend = BlendConfig()
    torch.manual_seed(0)
    model = MoleBlend(config).train().to(torch.bfloat16 if half else torch.float32)

    def step() -> None:
        layout = Layout(batch.num_atoms, "cpu")
        if "property" in config.heads:
            model(batch, show_all(batch, layout, "2d+3d"), layout).properties.sum().backward()
        else:
            shown, noise = draw_blend(batch, layout, blend, seed=1, epoch=1)
            losses = model(batch, shown, layout, targets_of(batch, layout, shown, noise, blend)).losses
            torch.stack(list(losses.values())).sum().backward()
        model.zero_grad(set_to_none=True)

    return peak_bytes(step, "cpu")
