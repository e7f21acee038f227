"""What an update costs a GPU, counted without one: launches, floating-point operations, bytes of its memory, and a predicted time.

The real code of an update runs on tensors that have shapes and no content (torch's FakeTensor), and every operation that would start
on the GPU is counted. Its time is the largest of bytes / bandwidth, operations / rate and what a launch takes (a roofline), with the
rates of `op_costs.py`; each costs the host time as well. Kernels that wait for loads take longer than that: it is a budget, not a
measurement, made for comparing one version of the code with the next.

`benchmarks/budget.csv` holds the counts of the committed code (`--write`); a test counts again, so that a change that adds bytes or
launches to an update is seen.
"""

import argparse
import contextlib
import csv
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.harness import Row
from benchmarks.op_costs import Count, Launched
from benchmarks.sizes import TITLES, draw_sizes

if TYPE_CHECKING:
    from moleblend_fs.data.batch import MoleculeBatch
    from moleblend_fs.model.moleblend import MoleBlend

TABLE = Path(__file__).with_suffix(".csv")
LAUNCH_ON_HOST = 10e-6
"""Seconds of the host for an operation of torch."""


@contextlib.contextmanager
def without_gpu() -> Iterator[FakeTensorMode]:
    """Triton's ops are chosen although there is no GPU; tensors have no content; seeds need none."""
    from moleblend_fs.model import encoder, heads, multi_hot
    from moleblend_fs.ops import cosine_loss, dispatch, layer_norm, linear
    from moleblend_fs.ops.atom_forces import launch as atom_forces
    from moleblend_fs.ops.attention import launch as attention
    from moleblend_fs.ops.gelu_dropout import autograd as gelu_dropout
    from moleblend_fs.ops.residual_norm import autograd as residual_norm
    from moleblend_fs.zero import gradient_clipping

    drawing = (attention, atom_forces, gelu_dropout, residual_norm)
    with (
        mock.patch.dict(os.environ, {"MOLEBLEND_OPS": "triton"}),
        mock.patch.object(dispatch, "_obstacle", return_value=None),
        mock.patch.object(dispatch, "_tested", return_value=None),
        mock.patch.object(layer_norm, "reads_half_precision", lambda x, gain: gain.dtype == x.dtype),
        mock.patch.object(linear, "adds_up_in_products", lambda x, weight: linear.type_of_products(weight) is None),
        mock.patch.object(cosine_loss, "gradient_along", return_value=True),
        mock.patch.object(multi_hot, "by_product", return_value=True),
        mock.patch.object(heads, "by_product", return_value=True),
        mock.patch.object(gradient_clipping, "in_pieces", lambda gradients: gradients),
        mock.patch.object(encoder, "reads_half_precision", lambda x, gain: gain.dtype == x.dtype),
        contextlib.ExitStack() as stack,
    ):
        for module in drawing:
            stack.enter_context(mock.patch.object(module, "draw_seed", return_value=(1, 2)))
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


def count_update(arch: str, sizes: np.ndarray, dtype: torch.dtype = torch.bfloat16, launched: Launched | None = None) -> Count:
    """Costs of an update of an architecture on molecules of these sizes, blending with its default options.

    Objectives whose shapes depend on what is in a batch (atoms that are drawn, say) cannot be counted so.
    In a process of its own: constants that are kept in it have no content afterwards.
    """
    from moleblend_fs.objectives.blend_then_predict import BlendConfig, BlendThenPredict
    from moleblend_fs.objectives.common.loss import weighted_loss
    from moleblend_fs.ops.layout import Layout

    learned = BlendThenPredict(BlendConfig())
    earlier, layout = (Layout(torch.from_numpy(sizes), "cpu") for _ in range(2))  # what is kept in one is made anew for the next batch
    count = Count(sizes, launched)
    with without_gpu():
        model = model_of(arch, dtype, heads=learned.heads(), **learned.config_fields())
        batch = batch_of(sizes)
        learned.prepare(batch, earlier, seed=1, epoch=0)  # constants are made once in a process
        optimizer = half_precision_optimizer(list(model.parameters()))
        optimizer.zero_grad()
        optimizer.step()  # which makes the moments
        with count:
            count.phase = "draws and targets"
            ready = learned.prepare(batch, layout, seed=1, epoch=1)
            learned.statistics(ready)
            count.phase = "forward"
            loss = weighted_loss(learned.loss_sums(model, ready), ready.counts, [term.weight for term in learned.terms()])
            count.phase = "backward"
            optimizer.backward(loss)
            count.phase = "optimizer"
            fairseq_step(optimizer)
    return count


def count_finetuning(
    arch: str, sizes: np.ndarray, dtype: torch.dtype = torch.bfloat16, launched: Launched | None = None, *, training: bool = True
) -> Count:
    """Costs of both passes of finetuning from 2D and 3D, without the optimizer, or of predictions alone; see `count_update`."""
    from moleblend_fs.model.shown import show_all
    from moleblend_fs.objectives.finetuning import property_loss
    from moleblend_fs.ops.layout import Layout

    layout, count = Layout(torch.from_numpy(sizes), "cpu"), Count(sizes, launched)
    with without_gpu(), torch.set_grad_enabled(training):
        model = model_of(arch, dtype, heads=("property",)).train(training)
        batch = batch_of(sizes)
        with count:
            count.phase = "forward"
            prediction = model(batch, show_all(batch, layout, "2d+3d"), layout).properties
            if training:
                loss = property_loss(prediction, batch.labels, batch.has_label, "regression", "mse")
                count.phase = "backward"
                loss.backward()
    return count


def model_of(arch: str, dtype: torch.dtype, **fields: Any) -> "MoleBlend":
    """A model in training, whose weights have this type."""
    from moleblend_fs.model.config import PRESETS, ModelConfig
    from moleblend_fs.model.moleblend import MoleBlend

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return MoleBlend(ModelConfig(**PRESETS[arch], **fields)).train()
    finally:
        torch.set_default_dtype(before)


def batch_of(sizes: np.ndarray) -> "MoleculeBatch":
    """A batch of so many atoms, with a label."""
    from moleblend_fs.data.batch import MoleculeBatch

    molecules, atoms, pairs = len(sizes), int(sizes.sum()), int((sizes**2).sum())
    return MoleculeBatch(
        num_atoms=torch.from_numpy(sizes),
        molecule_id=torch.empty(molecules, dtype=torch.int64),
        atom_features=torch.empty(atoms, 9, dtype=torch.uint8),
        degree=torch.empty(atoms, dtype=torch.uint8),
        coordinates=torch.empty(atoms, 3, dtype=torch.float32),
        has_coordinates=torch.empty(molecules, dtype=torch.bool),
        spd=torch.empty(pairs, dtype=torch.uint8),
        path_bonds=torch.empty(pairs, 5, dtype=torch.uint8),
        labels=torch.empty(molecules, 1, dtype=torch.float64),
        has_label=torch.empty(molecules, 1, dtype=torch.bool),
    )


def half_precision_optimizer(parameters: list[torch.nn.Parameter]) -> Any:
    """What training in bfloat16 on a GPU has: fairseq's optimizer for half precision around torch's fused Adam."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.optim.adam import FairseqAdamConfig
    from fairseq.optim.fp16_optimizer import FP16Optimizer
    from omegaconf import OmegaConf

    from fairseq_plugins.patches.fused_adam import FusedAdam  # with all other patches of fairseq

    config = OmegaConf.structured(FairseqConfig(optimizer=FairseqAdamConfig(_name="adam", lr=[1e-4])))
    config.common.bf16 = True
    optimizer = FP16Optimizer.build_optimizer(config, parameters)
    optimizer.optimizer = FusedAdam(optimizer.fp32_params, **optimizer.fp32_optimizer.optimizer_config)  # as where weights are on a GPU
    return optimizer


def fairseq_step(optimizer: Any) -> None:
    """fairseq's `Trainer.train_step` after the backward pass, and the clearing of gradients before the next one."""
    optimizer.multiply_grads(0.5)
    optimizer.clip_grad_norm(1.0)
    optimizer.step()
    optimizer.zero_grad()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: `Cost` with what it is the cost of."""

    arch: str
    set: str
    molecules: int
    dtype: str
    phase: str
    stage: str
    launches: int
    gflop: float
    gbytes: float
    device_ms: float


def lines(arch: str, name: str, molecules: int) -> list[Line]:
    """The table of an architecture and a set's sizes, and its sum."""
    count = count_update(arch, draw_sizes(name, molecules, seed=0))
    made = [
        Line(arch, name, molecules, "bfloat16", phase, stage, c.launches, round(c.gflop, 1), round(c.gbytes, 3), round(c.device_ms, 3))
        for (phase, stage), c in count.costs.items()
    ]
    total = [sum(getattr(line, field) for line in made) for field in ("launches", "gflop", "gbytes", "device_ms")]
    return [*made, Line(arch, name, molecules, "bfloat16", "all", "all", total[0], *(round(x, 3) for x in total[1:]))]


def read_table() -> list[Line]:
    with open(TABLE, newline="") as stream:
        kinds = {field.name: field.type for field in fields(Line)}
        return [Line(**{name: kinds[name](value) for name, value in line.items()}) for line in csv.DictReader(stream)]  # type: ignore[operator]


def write_table(found: list[Line]) -> None:
    with open(TABLE, "w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(field.name for field in fields(Line))
        table.writerows(astuple(line) for line in found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from moleblend_fs.model.config import PRESETS

    parser.add_argument("--arch", default="base", choices=PRESETS, help="size of the model (default %(default)s)")
    parser.add_argument("--set", default="pcqm4mv2", choices=TITLES, help="whose molecules' sizes (default %(default)s)")
    parser.add_argument("--molecules", type=int, default=4096, help="in an update (default %(default)s)")
    parser.add_argument("--write", action="store_true", default=False, help=f"write {TABLE.name}, which a test compares with")


def main(args: argparse.Namespace) -> list[Row]:
    """Print the table; counts are no measurements, and make no rows."""
    found = lines(args.arch, args.set, args.molecules)
    committed = {(line.arch, line.set, line.molecules, line.phase, line.stage): line for line in read_table()} if TABLE.exists() else {}
    print(f"{args.arch}, {args.molecules:,} molecules like {TITLES[args.set]}'s, bfloat16: an update\n")
    print(f"{'phase':18} {'stage':24} {'launches':>9} {'GFLOP':>10} {'GB':>8} {'ms':>8}   committed: launches, GB")
    for line in found:
        old = committed.get((line.arch, line.set, line.molecules, line.phase, line.stage))
        then = f"{old.launches:>9} {old.gbytes:8.2f}" if old else ""
        counts = f"{line.launches:>9} {line.gflop:>10,.1f} {line.gbytes:>8.2f} {line.device_ms:>8.2f}"
        print(f"{line.phase:18} {line.stage:24} {counts}   {then}".rstrip())
    device, host = found[-1].device_ms, 1e3 * LAUNCH_ON_HOST * found[-1].launches
    rate = 1e3 * args.molecules / max(device, host)
    print(f"\npredicted: {device:.1f} ms on the device, {host:.1f} ms of the host: {rate:,.0f} molecules/s")
    if args.write:
        write_table(found)
        print(f"written: {TABLE}")
    return []
