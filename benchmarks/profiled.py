"""One update under torch's profiler, stage by stage, beside what `benchmark budget` predicts: where does a GPU's time go?

On a GPU the base model in bfloat16 on 4,096 molecules of PCQM4Mv2's sizes, with the kernels, after some updates that do not count.
Molecules are random: what an update costs depends on their sizes. `--trace FILE` keeps all that was recorded (chrome://tracing).
"""

import argparse
import contextlib
import functools
import importlib
import os
import pkgutil
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.budget import Line, fairseq_step, half_precision_optimizer, read_table
from benchmarks.harness import Row, row
from benchmarks.measure import seconds_of
from benchmarks.op_costs import KERNELS, stage_of
from benchmarks.sizes import TITLES, draw_sizes
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import MAX_HOPS, NUM_BOND_CLASSES
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig, BlendThenPredict
from moleblend_fs.objectives.common.loss import weighted_loss
from moleblend_fs.ops import __path__ as ops_path
from moleblend_fs.ops.dispatch import VARIABLE
from moleblend_fs.ops.layout import Layout

SET, MOLECULES = "pcqm4mv2", 4096
MINIATURE = {"layers": 1, "embed_dim": 16, "ffn_dim": 16, "attention_heads": 2, "gaussians": 8, "pair_dim": 4, "hidden_3d": 8}
"""A model whose update costs next to nothing."""
STAGES = {
    "attention": "attention",
    "relation_bias": "relation bias",
    "atom_forces": "noise head",
    "pair_projection": "pair losses",
    "blend": "draws and targets",
    "residual_norm": "layer norms",
    "gelu_dropout": "elementwise",
}
"""Folder of an op -> what the budget calls its stage."""
LONGEST = 60
"""Kernels that are shown with their time."""
PRODUCT = re.compile(r"gemm|cutlass|xmma|nvjet|cublas|splitk|gemv", re.IGNORECASE)
NORM = re.compile(r"layer_?norm|gamma_?beta", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", type=Path, default=None, metavar="FILE", help="keep all that was recorded, as .json or .json.gz")


def main(args: argparse.Namespace) -> list[Row]:
    os.environ.setdefault(VARIABLE, "triton" if args.device == "cuda" or args.tiny else "reference")
    arch, sizes = ("base", draw_sizes(SET, MOLECULES, seed=0)) if args.device == "cuda" else ("tiny", draw_sizes(SET, 64, seed=0))
    if args.tiny:
        arch, sizes = "miniature", np.array([3, 5])
    count, update = len(sizes), Update(MINIATURE if args.tiny else PRESETS[arch], sizes, args.device)
    case = f"{arch}, {count:,} molecules like {TITLES[SET]}'s, bfloat16, {os.environ[VARIABLE]} ops"
    if args.device == "cuda":
        case += f", {torch.cuda.get_device_name()}"
    seconds = seconds_of(update.take, 20 if args.device == "cuda" else 1, args.device)
    launching = seconds_until_launched(update) if args.device == "cuda" else []
    found = profiled(update, args.device, args.trace)
    predicted = [line for line in read_table() if (line.arch, line.set, line.molecules) == (arch, SET, count) and line.stage != "all"]
    print_beside(found, predicted)
    rows = [
        row("profiled", case, "update", "ms", [1e3 * s for s in seconds], device=args.device),
        row("profiled", case, "training", "molecules/s", [count / s for s in seconds], target=">= 47,400", device=args.device),
    ]
    if launching:
        rows.append(row("profiled", case, "update, until all of it is launched", "ms", [1e3 * s for s in launching], device=args.device))
    return rows + [row("profiled", case, f"{stage}, in one update", "ms", [ms], device=args.device) for stage, (_, ms) in found.items()]


class Update:
    """An update of pretraining by blending, as the budget counts it: draws, forward and backward pass, and fairseq's step in bfloat16."""

    def __init__(self, size: Mapping[str, Any], sizes: np.ndarray, device: str):
        torch.manual_seed(0)
        self._learned, self._epoch = BlendThenPredict(BlendConfig()), 0
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            config = ModelConfig(**size, heads=self._learned.heads(), **self._learned.config_fields())
            self._model = MoleBlend(config).to(device).train()
        finally:
            torch.set_default_dtype(before)
        self._batch = random_molecules(sizes).to(torch.device(device))
        self._optimizer = half_precision_optimizer(list(self._model.parameters()))
        self._optimizer.zero_grad()

    def take(self) -> torch.Tensor:
        """The loss."""
        self._epoch += 1
        layout = Layout(self._batch.num_atoms.cpu(), self._batch.coordinates.device)
        ready = self._learned.prepare(self._batch, layout, seed=1, epoch=self._epoch)
        self._learned.statistics(ready)
        loss = weighted_loss(self._learned.loss_sums(self._model, ready), ready.counts, [term.weight for term in self._learned.terms()])
        self._optimizer.backward(loss)
        fairseq_step(self._optimizer)
        return loss.detach()


def random_molecules(sizes: np.ndarray) -> MoleculeBatch:
    """Molecules of these sizes whose other features are random, and possible."""
    random = torch.Generator().manual_seed(0)
    atoms, pairs, molecules = int(sizes.sum()), int((sizes**2).sum()), len(sizes)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=random, dtype=torch.uint8)

    features = integers(0, 2, atoms, 9)
    features[:, 0] = integers(5, 9, atoms)
    layout = Layout(torch.from_numpy(sizes), "cpu")
    return MoleculeBatch(
        num_atoms=torch.from_numpy(sizes),
        molecule_id=torch.arange(molecules),
        atom_features=features,
        degree=integers(1, 5, atoms),
        coordinates=2 * torch.randn(atoms, 3, generator=random),
        has_coordinates=torch.ones(molecules, dtype=torch.bool),
        spd=torch.where(layout.pair_row == layout.pair_column, 0, integers(1, 9, pairs)),
        path_bonds=integers(0, NUM_BOND_CLASSES, pairs, MAX_HOPS),
        labels=torch.empty(molecules, 0, dtype=torch.float64),
        has_label=torch.empty(molecules, 0, dtype=torch.bool),
    )


def seconds_until_launched(update: Update) -> list[float]:
    """Seconds that the host needs for an update: it waits for nothing, and the GPU has nothing else to do."""
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        update.take()
        seconds.append(time.perf_counter() - begin)
    torch.cuda.synchronize()
    return seconds


class AllDispatched(TorchDispatchMode):
    """Within, calls of our ops are operations of torch's, with names for the profiler, where they would go past its dispatcher."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def profiled(update: Update, device: str, trace: Path | None) -> dict[str, tuple[int, float]]:
    """Stage -> launches and milliseconds of one update, the longest first; of a CPU's operations where there is no GPU."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if device == "cuda" else kinds.CPU]) as profile:
        with contextlib.nullcontext() if device == "cuda" else AllDispatched():
            update.take()
        if device == "cuda":
            torch.cuda.synchronize()
    if trace is not None:
        profile.export_chrome_trace(str(trace))
    launches, milliseconds = Counter[str](), Counter[str]()
    averages = profile.key_averages()
    if device == "cuda":
        print(averages.table(sort_by="self_device_time_total", row_limit=LONGEST, max_name_column_width=70))
    for event in averages:
        taken = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        stage = stage_of_kernel(event.key) if device == "cuda" else stage_of_operation(event.key)
        if taken > 0:
            launches[stage] += event.count
            milliseconds[stage] += taken / 1e3
    return {stage: (launches[stage], ms) for stage, ms in milliseconds.most_common()}


def stage_of_kernel(name: str) -> str:
    """What the budget counts a kernel as, by its name; copies, draws and the optimizer cannot be told from other elementwise ones."""
    if stage := triton_kernels().get(name.removesuffix("_kernel"), triton_kernels().get(name)):
        return stage
    return "products" if PRODUCT.search(name) else "layer norms" if NORM.search(name) else "elementwise"


def stage_of_operation(name: str) -> str:
    space, _, operation = name.partition("::")
    return KERNELS.get(operation, "other kernels") if space == "moleblend" else stage_of("forward", operation)


@functools.cache
def triton_kernels() -> dict[str, str]:
    """Name of each kernel of ours -> its stage."""
    found: dict[str, str] = {}
    for room in (module.name for module in pkgutil.iter_modules(ops_path) if module.ispkg):
        package: Any = importlib.import_module(f"moleblend_fs.ops.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.startswith("kernel"):
                content = vars(importlib.import_module(f"moleblend_fs.ops.{room}.{module.name}"))
                found |= {name: STAGES.get(room, room) for name, value in content.items() if hasattr(value, "arg_names")}
    return found


def print_beside(found: dict[str, tuple[int, float]], predicted: list[Line]) -> None:
    """Measured stages beside predicted ones; what cannot be told apart by kernels' names is one sum."""
    one = {"casts", "embeddings and gathers", "draws and targets", "optimizer", "elementwise"}
    tables: list[dict[str, list[float]]] = []
    for lines in ([(stage, *each) for stage, each in found.items()], [(x.stage, x.launches, x.device_ms) for x in predicted]):
        sums: dict[str, list[float]] = {}
        for stage, launches, ms in lines:
            for name in {"elementwise" if stage in one else stage, "all"}:
                of_stage = sums.setdefault(name, [0, 0.0])
                of_stage[0] += launches
                of_stage[1] += ms
        tables.append(sums)
    print(f"{'stage':24} {'launches':>9} {'ms':>9}   predicted: launches, ms")
    for stage in sorted({*tables[0], *tables[1]}, key=lambda stage: (stage == "all", -tables[0].get(stage, [0, 0])[1])):
        columns = [f"{table[stage][0]:>9} {table[stage][1]:>9.2f}" if stage in table else " " * 19 for table in tables]
        print(f"{stage:24} {columns[0]}   {columns[1]}".rstrip())
    print()
