"""Forward, backward and criterion of the base model in float32 on one thread, batch 64, against the reference release.

The reference release's figures were measured on the same kind of machine (2-core AMD EPYC, one thread): CPU seconds and
peak memory of the process for one step.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import ROOT, Row, row
from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.config import BlendConfig
from moleblend_fs.objectives.draw import draw_blend
from moleblend_fs.objectives.pretraining import count_targets, targets_of
from moleblend_fs.ops.layout import Layout

BATCH, STEPS = 64, 5
REFERENCE = {"qm9": (6.60, 3.2, 2), "lipo": (20.2, 7.1, 3)}
"""Set -> (CPU seconds, peak GiB) of the reference release, and how many times faster ours is to be."""
RECOMPUTED = (0, 12)
"""Values of --checkpoint-layers."""
TITLES = {"qm9": "QM9 with hydrogens", "lipo": "Lipophilicity"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared = os.environ.get("MOLEBLEND_SHARED", ROOT.parent / "shared")
    parser.add_argument(
        "--lipo", type=Path, default=Path(shared) / "data/moleculenet/lipo.csv.gz", help="Lipophilicity (default %(default)s)"
    )


def main(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, source in (("qm9", ["qm9", ROOT / "examples/quickstart/qm9_sample.csv.xz"]), ("lipo", ["moleculenet", args.lipo])):
            store = Path(folder) / name
            subprocess.run(
                [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", *source, store], cwd=ROOT, check=True, capture_output=True
            )
            before, before_gib, faster = REFERENCE[name]
            for recomputed in RECOMPUTED:
                seconds, first, peak, atoms = in_fresh_process(store, recomputed)
                case = f"{TITLES[name]} ({atoms:.1f} atoms), base, batch {BATCH}, float32, 1 thread"
                case += f", {recomputed} blocks recomputed" * (recomputed > 0)
                rows += [
                    row("step", case, "forward, backward, criterion", "CPU s", seconds),
                    row("step", case, "reference release / ours, time", "x", [before / s for s in seconds], target=f">= {faster}"),
                    row("step", case, "peak memory of the process, one step", "GiB", [first]),
                    row("step", case, "ours / reference release, memory of one step", "x", [first / before_gib], target="<= 0.333"),
                    row("step", case, "peak memory of the process, further steps", "GiB", [peak]),
                ]
    return rows


def in_fresh_process(store: Path, recomputed: int) -> tuple[list[float], float, float, float]:
    """`measure` in a process of its own, so that its peak memory is its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.step", str(store), str(recomputed)]
    return tuple(json.loads(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout))


def random_batch(store: Store, size: int, seed: int = 0) -> MoleculeBatch:
    """Random molecules of a store; those without a structure get random coordinates, so that all parts of the model work."""
    random = np.random.default_rng(seed)
    batch = collate(store.records(random.choice(len(store), size, replace=False)))
    made_up = torch.from_numpy(random.normal(scale=3.0, size=batch.coordinates.shape).astype(np.float32))
    atoms_with_3d = batch.has_coordinates.repeat_interleave(batch.num_atoms).unsqueeze(1)
    fields = {name: getattr(batch, name) for name in MoleculeBatch.__dataclass_fields__}
    coordinates = torch.where(atoms_with_3d, batch.coordinates, made_up)
    return MoleculeBatch(**{**fields, "coordinates": coordinates, "has_coordinates": torch.ones_like(batch.has_coordinates)})


def train_step(model: MoleBlend, batch: MoleculeBatch, config: BlendConfig) -> None:
    """What fairseq does of an update, but for the optimizer."""
    model.zero_grad(set_to_none=True)
    layout = Layout(batch.num_atoms, "cpu")
    shown, noise = draw_blend(batch, layout, config, seed=1, epoch=1)
    targets = targets_of(batch, layout, shown, noise, config)
    counts = count_targets(targets, layout, config)
    sums = model(batch, shown, layout, targets).losses
    loss = torch.stack([config.weights[name] * sums[name] / count for name, count in zip(config.predict, counts, strict=True)]).sum()
    loss.backward()


def measure(store: Path, recomputed: int) -> tuple[list[float], float, float, float]:
    """CPU seconds of each step after a first one that warms up, the process's peak memory in GiB after the first step and
    after all (glibc's heap fragments), and atoms per molecule."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BlendConfig()
    batch = random_batch(Store(store), BATCH)
    model = MoleBlend(ModelConfig(heads=config.predict, checkpoint_layers=recomputed)).train()
    times, peaks = [], []
    for _ in range(1 + STEPS):
        start = time.process_time()
        train_step(model, batch, config)
        times.append(time.process_time() - start)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    return times[1:], peaks[0], peaks[-1], float(batch.num_atoms.double().mean())


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
