"""What bfloat16 gains on one core, and what it changes: a training step of --bf16, predictions of --precision bf16, beside float32's.

Both ways take turns in one process. Predictions are those of a small model that learned QM9's HOMO-LUMO gap from 2D for some hundred steps.
"""

import argparse
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

from benchmarks.harness import ROOT, Row, row
from benchmarks.step import BATCH, random_batch, train_step
from moleblend_fs.data.batch import collate
from moleblend_fs.data.store import Store
from moleblend_fs.inference.forward import PRECISIONS, Forward, properties
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.blend_then_predict import BlendConfig
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import bfloat16_instructions

STEPS = {"small": 20, "base": 5}
UPDATES, LEARNED_BATCH, PREDICTED, TOKENS, REPEATS = 300, 32, 512, 4096, 5


def main(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = ROOT / "examples/quickstart/qm9_sample.csv.xz"
        command = [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", "qm9", str(source), f"{folder}/store"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        store = Store(f"{folder}/store")
        return [*steps(store), *predictions(store)]


def steps(store: Store) -> list[Row]:
    """Forward, backward and criterion of pretraining."""
    rows: list[Row] = []
    blend, batch = BlendConfig(), random_batch(store, BATCH)
    for size, repeats in STEPS.items():
        config = ModelConfig(**PRESETS[size], heads=blend.predict)  # type: ignore[arg-type]
        models = {"float32": MoleBlend(config).train(), "bf16": MoleBlend(config).bfloat16().train()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for repeat in range(-2, repeats):
            for name, model in models.items():
                begin = time.process_time()
                train_step(model, batch, blend)
                if repeat >= 0:
                    seconds[name].append(time.process_time() - begin)
        case = f"QM9 with hydrogens, {size}, batch {BATCH}, 1 thread, {instructions()}"
        rows += [row("precision", case, f"step, {name}", "CPU ms", [1e3 * s for s in found]) for name, found in seconds.items()]
        rows.append(row("precision", case, "step, float32 / bf16", "x", ratios(seconds)))
    return rows


def predictions(store: Store) -> list[Row]:
    """Of molecules that the model was not trained on: how many a second, and how far apart they are."""
    model, mean, std = learned(store)
    places = store.split("test")[:PREDICTED]
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    values = {}
    forwards = {name: Forward([model], "cpu", "2d", properties, TOKENS, precision=name) for name in PRECISIONS}
    batches = [(batch, store.records(places[batch])) for batch in forwards["float32"].batches(store.num_atoms[places])]
    for repeat in range(-1, REPEATS):
        for name, forward in forwards.items():
            begin = time.process_time()
            found = np.zeros(len(places))
            for batch, records in batches:
                found[batch] = forward.submit_records(records).result()[0][:, 0]
            values[name] = found * std + mean
            if repeat >= 0:
                seconds[name].append(time.process_time() - begin)
    for forward in forwards.values():
        forward.close()
    case = f"{len(places)} molecules of QM9 with hydrogens, small, inputs 2d, from records, 1 thread, {instructions()}"
    rows = [
        row("precision", case, f"predictions, {name}", "molecules/CPU s", [len(places) / s for s in found])
        for name, found in seconds.items()
    ]
    unit = store.manifest.labels[store.manifest.label_index("gap")].unit
    change = np.sqrt(np.mean((values["float32"] - values["bf16"]) ** 2)) / values["float32"].std()
    error = {name: float(np.abs(found - labels(store, places)).mean()) for name, found in values.items()}
    return [
        *rows,
        row("precision", case, "predictions, float32 / bf16", "x", ratios(seconds)),
        row("precision", case, "root mean square change / spread of the predictions", "%", [100 * change]),
        *(row("precision", case, f"mean absolute error, {name}", unit, [value]) for name, value in error.items()),
    ]


def instructions() -> str:
    """Of this processor."""
    return ", ".join(bfloat16_instructions()) or "no bfloat16 in hardware"


def ratios(seconds: dict[str, list[float]]) -> list[float]:
    return [a / b for a, b in zip(seconds["float32"], seconds["bf16"], strict=True)]


def labels(store: Store, places: np.ndarray) -> np.ndarray:
    return store.labels(places)[:, store.manifest.label_index("gap")].astype(np.float64)


def learned(store: Store) -> tuple[MoleBlend, float, float]:
    """A model after some hundred updates in float32, with the mean and standard deviation that its outputs are scaled by."""
    torch.manual_seed(0)
    random, places = np.random.default_rng(0), store.split("train")
    mean, std = float(labels(store, places).mean()), float(labels(store, places).std())
    model = MoleBlend(ModelConfig(**PRESETS["small"], heads=("property",))).train()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=UPDATES)
    for _ in range(UPDATES):
        chosen = random.choice(places, LEARNED_BATCH, replace=False)
        batch = collate(store.records(chosen))
        layout = Layout(batch.num_atoms, "cpu")
        output = model(batch, show_all(batch, layout, "2d"), layout).properties
        scaled = torch.from_numpy((labels(store, chosen) - mean) / std).float()
        optimizer.zero_grad()
        (output.squeeze(1) - scaled).abs().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return model.eval(), mean, std
