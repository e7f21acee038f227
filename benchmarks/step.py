"""Forward, backward and criterion of the base model: ours, the same with everything padded and materialised, and the reference release.

On the CPU in float32 on one thread, batch 64. The reference release's figures were measured on the same kind of machine
(2-core AMD EPYC, one thread): CPU seconds and peak memory of the process for one step. On a GPU in bfloat16, large batches,
with and without kernels.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import padded
from benchmarks.harness import ROOT, Row, row
from benchmarks.measure import peak_bytes, peak_of, seconds_of
from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig, count_targets, draw_blend, targets_of
from moleblend_fs.ops.dispatch import VARIABLE
from moleblend_fs.ops.layout import Layout

BATCH, STEPS = 64, 5
GPU_BATCH = {"pcqm4mv2": 2048, "qm9": 1024, "lipo": 512}
REFERENCE = {"qm9": (6.60, 3.2, 2), "lipo": (20.2, 7.1, 3)}
"""Set -> (CPU seconds, peak GiB) of the reference release, and how many times faster ours is to be."""
TITLES = {"pcqm4mv2": "PCQM4Mv2", "qm9": "QM9 with hydrogens", "lipo": "Lipophilicity"}
PATHS = {"packed": "", "recomputed": ", 12 blocks recomputed", "padded": ", plain and padded"}
"""Ways to make a step, and how rows call them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared = Path(os.environ.get("MOLEBLEND_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--lipo", type=Path, default=shared / "data/moleculenet/lipo.csv.gz", help="Lipophilicity (default %(default)s)")
    parser.add_argument("--pcqm4mv2", type=Path, default=shared / "data/pcqm4mv2", help="PCQM4Mv2, for GPUs (default %(default)s)")


def main(args: argparse.Namespace) -> list[Row]:
    sources = {"qm9": ["qm9", ROOT / "examples/quickstart/qm9_sample.csv.xz"], "lipo": ["moleculenet", args.lipo]}
    if args.device == "cuda":
        sources = {"pcqm4mv2": ["pcqm4mv2", args.pcqm4mv2], **sources}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources.items():
            store = Path(folder) / name
            subprocess.run(
                [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", *source, store], cwd=ROOT, check=True, capture_output=True
            )
            rows += on_gpu(name, Store(store)) if args.device == "cuda" else on_cpu(name, store)
    return rows


def on_cpu(name: str, store: Path) -> list[Row]:
    """Time and memory of all ways to make a step, each in a process of its own."""
    rows: list[Row] = []
    before, before_gib, faster = REFERENCE[name]
    measured = {path: in_fresh_process(store, path) for path in PATHS}
    for path, (seconds, first, peak, atoms) in measured.items():
        case = f"{TITLES[name]} ({atoms:.1f} atoms), base, batch {BATCH}, float32, 1 thread{PATHS[path]}"
        rows += [
            row("step", case, "forward, backward, criterion", "CPU s", seconds),
            row("step", case, "peak memory of the process, one step", "GiB", [first]),
            row("step", case, "peak memory of the process, further steps", "GiB", [peak]),
        ]
        if path == "padded":
            continue
        default = path == "packed"
        ratios = [np.median(measured["padded"][0]) / s for s in seconds]
        rows += [
            row("step", case, "reference release / ours, time", "x", [before / s for s in seconds], target=f">= {faster}" * default),
            row("step", case, "ours / reference release, memory of one step", "x", [first / before_gib], target="<= 0.333"),
            row("step", case, "plain and padded / ours, time", "x", ratios, target=">= 1.3" * (default and name == "lipo")),
        ]
    return rows


def in_fresh_process(store: Path, path: str) -> tuple[list[float], float, float, float]:
    """`measure` in a process of its own, so that its peak memory is its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.step", str(store), path]
    return tuple(json.loads(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout))


def random_batch(store: Store, size: int, seed: int = 0) -> MoleculeBatch:
    """Random molecules of a store; those without a structure get random coordinates, so that all parts of the model work."""
    random = np.random.default_rng(seed)
    batch = collate(store.records(random.choice(len(store), size, replace=size > len(store))))
    made_up = torch.from_numpy(random.normal(scale=3.0, size=batch.coordinates.shape).astype(np.float32))
    atoms_with_3d = batch.has_coordinates.repeat_interleave(batch.num_atoms).unsqueeze(1)
    fields = {name: getattr(batch, name) for name in MoleculeBatch.__dataclass_fields__}
    coordinates = torch.where(atoms_with_3d, batch.coordinates, made_up)
    return MoleculeBatch(**{**fields, "coordinates": coordinates, "has_coordinates": torch.ones_like(batch.has_coordinates)})


def train_step(model: MoleBlend, batch: MoleculeBatch, config: BlendConfig, path: str = "packed") -> Tensor:
    """What fairseq does of an update, but for the optimizer; the loss."""
    model.zero_grad(set_to_none=True)
    device = model.relations.graph_bias.device
    batch = batch.to(device)
    layout = Layout(batch.num_atoms, device)
    shown, noise = draw_blend(batch, layout, config, seed=1, epoch=1)
    targets = targets_of(batch, layout, shown, noise, config)
    counts = count_targets(targets, layout, config)
    arguments = (batch, shown, layout, targets)
    sums = padded.loss_sums(model, *arguments) if path == "padded" else model(*arguments).losses
    loss = torch.stack([config.weights[name] * sums[name] / count for name, count in zip(config.predict, counts, strict=True)]).sum()
    loss.backward()
    return loss.detach()


def measure(store: Path, path: str) -> tuple[list[float], float, float, float]:
    """CPU seconds of each step after a first one that warms up, the process's peak memory in GiB after the first step and
    after all (glibc's heap fragments), and atoms per molecule."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BlendConfig()
    batch = random_batch(Store(store), BATCH)
    model = MoleBlend(ModelConfig(heads=config.predict, checkpoint_layers=12 * (path == "recomputed"))).train()
    times, peaks = [], []
    for _ in range(1 + STEPS):
        start = time.process_time()
        train_step(model, batch, config, path)
        times.append(time.process_time() - start)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    return times[1:], peaks[0], peaks[-1], float(batch.num_atoms.double().mean())


def step_flops(sizes: np.ndarray, config: ModelConfig) -> float:
    """Floating-point operations of the products of a step: twice the multiplications, and the backward pass twice the forward."""
    d, f, k, h = config.embed_dim, config.ffn_dim, config.gaussians, config.attention_heads
    tokens, atoms, pairs = (sizes + 1).sum(), sizes.sum(), (sizes**2).sum()
    blocks = config.layers * (tokens * (4 * d * d + 2 * d * f) + 2 * d * ((sizes + 1) ** 2).sum())
    distances = 0.6 * pairs * k * (k + h)  # the share of the pairs that show their distance
    outputs, m = 11 + 120 + 3, config.pair_dim
    heads = atoms * (6 * d * m + m * m * outputs) + pairs * m * outputs + 3 * atoms * d * d
    return 6 * float(blocks + distances + heads)


def on_gpu(name: str, store: Store) -> list[Row]:
    """Molecules per second and share of the chip's bfloat16 rate, with kernels, without, and padded."""
    rows: list[Row] = []
    config = BlendConfig()
    size = ModelConfig(heads=config.predict)
    for path, ops in (("packed", "triton"), ("packed", "reference"), ("padded", "reference")):
        os.environ[VARIABLE] = ops
        torch.manual_seed(0)
        batch = random_batch(store, GPU_BATCH[name]).pin_memory()
        # The padded path holds tensors of n x n x K: it gets smaller batches of the same molecules.
        if path == "padded":
            batch = random_batch(store, GPU_BATCH[name] // 8).pin_memory()
        model = MoleBlend(size).to("cuda", torch.bfloat16 if path == "packed" else torch.float32).train()
        seconds = seconds_of(step_on_gpu(model, batch, config, path), 10, "cuda")
        sizes = batch.num_atoms.numpy()
        precision = "bfloat16" if path == "packed" else "autocast to bfloat16"
        case = f"{TITLES[name]} ({sizes.mean():.1f} atoms), base, batch {len(batch)}, {precision}, {ops} ops{PATHS[path]}"
        rate, peak = step_flops(sizes, size), peak_of("cuda")
        rows.append(row("step", case, "forward, backward, criterion", "molecules/s", [len(batch) / s for s in seconds], device="cuda"))
        if peak is not None:
            target = ">= 25" if (name, ops) == ("pcqm4mv2", "triton") else ""
            share = [100 * rate / s / peak.bf16 for s in seconds]
            rows.append(row("step", case, "share of the chip's bfloat16 rate", "%", share, target=target, device="cuda"))
        memory = peak_bytes(step_on_gpu(model, batch, config, path), "cuda") / 2**30
        rows.append(row("step", case, "peak memory of tensors", "GiB", [memory], device="cuda"))
        del model
        torch.cuda.empty_cache()
    return rows


def step_on_gpu(model: MoleBlend, batch: MoleculeBatch, config: BlendConfig, path: str) -> Callable[[], Tensor]:
    """A step to call; the padded model computes in bfloat16 where autocast finds that safe."""

    def step() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=path == "padded"):
            return train_step(model, batch, config, path)

    return step


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
