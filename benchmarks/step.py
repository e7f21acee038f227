"""Forward, backward and criterion of the base model: ours, and the same with everything padded and materialised.

On the CPU in float32 on one thread, batch 64. Ours and the padded one are processes that take steps in turn, so that what else the
machine does meets both alike. On a GPU in bfloat16, large batches, with and without kernels.
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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import padded_model
from benchmarks.harness import ROOT, Row, row
from benchmarks.measure import peak_bytes, peak_of, seconds_of
from benchmarks.profiled import MINIATURE
from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig, count_targets, draw_blend, targets_of
from moleblend_fs.ops.dispatch import VARIABLE
from moleblend_fs.ops.layout import Layout

BATCH, STEPS = 64, 5
GPU_BATCH = {"pcqm4mv2": 2048, "qm9": 1024, "lipo": 512}
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
    if args.tiny:
        sources = {"qm9": [*sources["qm9"], "--limit", "20"]}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources.items():
            store = Path(folder) / name
            subprocess.run(
                [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", *source, store], cwd=ROOT, check=True, capture_output=True
            )
            on_large = args.device == "cuda" or args.tiny
            rows += on_gpu(name, Store(store), args.device, tiny=args.tiny) if on_large else on_cpu(name, store)
    return rows


def on_cpu(name: str, store: Path) -> list[Row]:
    """Time and memory of our ways to make a step, each beside the padded one: two processes that take steps in turn."""
    rows: list[Row] = []
    for path in ("packed", "recomputed"):
        with StepProcess(store, path) as ours, StepProcess(store, "padded") as plain:
            pairs = [(ours.step(), plain.step()) for _ in range(1 + STEPS)]
        for way, process, steps in zip((path, "padded"), (ours, plain), zip(*pairs, strict=True), strict=True):
            if way == "padded" and path != "packed":
                continue
            rows += [
                row("step", case_of(name, ours.atoms, way), "forward, backward, criterion", "CPU s", [s.seconds for s in steps[1:]]),
                row("step", case_of(name, ours.atoms, way), "peak memory of the process, one step", "GiB", [steps[0].peak]),
                row("step", case_of(name, ours.atoms, way), "peak memory of the process, further steps", "GiB", [steps[-1].peak]),
            ]
            assert process.atoms == ours.atoms
        ratios = [b.seconds / a.seconds for a, b in pairs[1:]]
        case, aim = case_of(name, ours.atoms, path), ">= 1.3" * (path == "packed" and name == "lipo")
        rows += [
            row("step", case, "plain and padded / ours, time, steps in turn", "x", ratios, target=aim),
            row("step", case, "ours / plain and padded, memory of one step", "x", [pairs[0][0].peak / pairs[0][1].peak]),
        ]
    return rows


def case_of(name: str, atoms: float, path: str) -> str:
    return f"{TITLES[name]} ({atoms:.1f} atoms), base, batch {BATCH}, float32, 1 thread{PATHS[path]}"


class Taken(NamedTuple):
    """What a step took: CPU seconds, and the peak memory of its process so far, GiB."""

    seconds: float
    peak: float


class StepProcess:
    """A process of its own, so that its peak memory is its own, which makes a step whenever it is asked to.

    Attributes:
        atoms: of a molecule, on average.
    """

    def __init__(self, store: Path, path: str, module: str = "benchmarks.step"):
        command = [sys.executable, "-m", module, str(store), path]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.atoms: float = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")
        return json.loads(line)

    def step(self) -> Taken:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return Taken(*self._answer())

    def __enter__(self) -> "StepProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


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
    sums = padded_model.loss_sums(model, *arguments) if path == "padded" else model(*arguments).losses
    loss = torch.stack([config.weights[name] * sums[name] / count for name, count in zip(config.predict, counts, strict=True)]).sum()
    loss.backward()
    return loss.detach()


def take_steps(store: Path, path: str) -> None:
    """Print the atoms of a molecule, and then for each line of the standard input what a step takes. glibc's heap fragments, so
    that the peak grows for some steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BlendConfig()
    batch = random_batch(Store(store), BATCH)
    model = MoleBlend(ModelConfig(heads=config.predict, checkpoint_layers=12 * (path == "recomputed"))).train()
    print(float(batch.num_atoms.double().mean()), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        train_step(model, batch, config, path)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps([time.process_time() - start, peak]), flush=True)


def step_flops(sizes: np.ndarray, config: ModelConfig) -> float:
    """Floating-point operations of the products of a step: twice the multiplications, and the backward pass twice the forward."""
    d, f, k, h = config.embed_dim, config.ffn_dim, config.gaussians, config.attention_heads
    tokens, atoms, pairs = (sizes + 1).sum(), sizes.sum(), (sizes**2).sum()
    blocks = config.layers * (tokens * (4 * d * d + 2 * d * f) + 2 * d * ((sizes + 1) ** 2).sum())
    distances = 0.6 * pairs * k * (k + h)  # the share of the pairs that show their distance
    outputs, m = 11 + 120 + 3, config.pair_dim
    heads = atoms * (6 * d * m + m * m * outputs) + pairs * m * outputs + 3 * atoms * d * d
    return 6 * float(blocks + distances + heads)


def on_gpu(name: str, store: Store, device: str, *, tiny: bool) -> list[Row]:
    """Molecules per second and share of the chip's bfloat16 rate, with kernels, without, and padded; or a tiny model of two molecules."""
    rows: list[Row] = []
    config, arch = BlendConfig(), "miniature" if tiny else "base"
    size = ModelConfig(heads=config.predict, **(MINIATURE if tiny else {}))  # type: ignore[arg-type]
    for path, ops in (("packed", "triton"), ("packed", "reference"), ("padded", "reference")):
        os.environ[VARIABLE] = ops
        torch.manual_seed(0)
        # The padded path holds tensors of n x n x K: it gets smaller batches of the same molecules.
        count = 2 if tiny else GPU_BATCH[name] // (8 if path == "padded" else 1)
        batch = random_batch(store, count)
        batch = batch.pin_memory() if device == "cuda" else batch
        model = MoleBlend(size).to(device, torch.bfloat16 if path == "packed" else torch.float32).train()
        seconds = seconds_of(step_on_gpu(model, batch, config, path), 1 if tiny else 10, device)
        sizes = batch.num_atoms.numpy()
        precision = "bfloat16" if path == "packed" else "autocast to bfloat16"
        case = f"{TITLES[name]} ({sizes.mean():.1f} atoms), {arch}, batch {len(batch)}, {precision}, {ops} ops{PATHS[path]}"
        rate, peak = step_flops(sizes, size), peak_of(device)
        rows.append(row("step", case, "forward, backward, criterion", "molecules/s", [len(batch) / s for s in seconds], device=device))
        if peak is not None:
            target = ">= 25" if (name, ops) == ("pcqm4mv2", "triton") else ""
            share = [100 * rate / s / peak.bf16 for s in seconds]
            rows.append(row("step", case, "share of the chip's bfloat16 rate", "%", share, target=target, device=device))
        memory = peak_bytes(step_on_gpu(model, batch, config, path), device) / 2**30
        rows.append(row("step", case, "peak memory of tensors", "GiB", [memory], device=device))
        del model
        torch.cuda.empty_cache()
    return rows


def step_on_gpu(model: MoleBlend, batch: MoleculeBatch, config: BlendConfig, path: str) -> Callable[[], Tensor]:
    """A step to call; the padded model computes in bfloat16 where autocast finds that safe."""

    def step() -> Tensor:
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=path == "padded"):
            return train_step(model, batch, config, path)

    return step


if __name__ == "__main__":
    take_steps(Path(sys.argv[1]), sys.argv[2])
