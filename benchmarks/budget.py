"""What an update costs a GPU, counted without one: launches, floating-point operations, bytes of its memory, and a predicted time.

The real code of an update runs on tensors that have shapes and no content (torch's FakeTensor), and every operation that would start
on the GPU is counted. Its time is the largest of bytes / bandwidth, operations / rate and what a launch takes (a roofline), with the
rates below; each costs the host time as well. Kernels that wait for loads take longer than that: it is a budget, not a measurement,
made for comparing one version of the code with the next.

`benchmarks/budget.csv` holds the counts of the committed code (`--write`); a test counts again, so that a change that adds bytes or
launches to an update is seen.
"""

import argparse
import contextlib
import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.harness import Row
from benchmarks.sizes import TITLES, draw_sizes

TABLE = Path(__file__).with_suffix(".csv")
BANDWIDTH = 0.9 * 4.8e12
"""Bytes/s: nine tenths of the H200's, from NVIDIA's data sheet (2024), as streaming kernels reach."""
RATES = {torch.bfloat16: 0.65 * 989e12, torch.float16: 0.65 * 989e12, torch.float32: 0.65 * 67e12}
"""Operations/s of products: about two thirds of the same sheet's dense rates."""
LAUNCH_ON_DEVICE = 2e-6
"""Seconds that the smallest kernel takes."""
LAUNCH_ON_HOST = 10e-6
"""Seconds of the host for an operation of torch."""
# fmt: off
VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias",
    "as_strided", "split", "unbind", "split_with_sizes", "reshape", "view_as", "lift_fresh", "unfold", "_reshape_alias", "diagonal",
    "chunk", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
}
"""Operations that start nothing on the device."""
FILLS = {"zeros", "zero_", "fill_", "zeros_like", "full_like", "new_zeros", "full", "ones", "new_ones", "arange"}
"""Operations that only write."""
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
EMBEDDINGS = {
    "embedding", "embedding_dense_backward", "index_select", "index", "index_add", "index_add_", "index_put", "index_put_", "gather",
}
# fmt: on
KERNELS = {
    "attention_forward": "attention",
    "attention_backward": "attention",
    "relation_bias": "relation bias",
    "relation_bias_backward": "relation bias",
    "atom_forces_forward": "noise head",
    "atom_forces_backward": "noise head",
    "pair_cross_entropy": "pair losses",
    "pair_geometry": "pair losses",
}


@dataclass(slots=True)
class Cost:
    """Of a stage of one phase.

    Attributes:
        launches: operations that start on the device. gflop: floating-point operations of products, 1e9. gbytes: read and written, 1e9.
        device_ms: predicted time.
    """

    launches: int = 0
    gflop: float = 0.0
    gbytes: float = 0.0
    device_ms: float = 0.0

    def add(self, launches: int, flop: float, size: float, rate: float) -> None:
        seconds = max(size / BANDWIDTH, flop / rate, launches * LAUNCH_ON_DEVICE)
        self.launches += launches
        self.gflop += flop / 1e9
        self.gbytes += size / 1e9
        self.device_ms += 1e3 * seconds


class Count(TorchDispatchMode):
    """Counts what is dispatched while it is entered, by phase (`phase`, which the caller sets) and stage.

    Args:
        sizes: (B,) atoms of each molecule, for the kernels' operations.
    """

    def __init__(self, sizes: np.ndarray):
        super().__init__()
        self.sizes, self.phase = sizes, ""
        self.costs: dict[tuple[str, str], Cost] = defaultdict(Cost)
        self._stage = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.namespace == "moleblend":
            self._kernel(name, args, kwargs, result)
        elif func.namespace == "aten" and name not in VIEWS:
            given, made = _tensors((args, kwargs)), _tensors(result)
            flop = 0.0
            if name in PRODUCTS:
                flop = float(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result))
            size = sum(map(_bytes, made if name in FILLS else [*given, *made]))
            rate = RATES.get(given[0].dtype, RATES[torch.float32]) if given else RATES[torch.float32]
            self.costs[self.phase, self._stage or stage_of(self.phase, name)].add(1, flop, size, rate)
        return result

    def _kernel(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """A kernel's bytes and operations, its launches, and what its Python does besides on the device."""
        stage = self._stage = KERNELS[name]
        counted: list[int] = []
        with self, _launches_counted(counted):
            OPDEFS[f"moleblend::{name}"]._init_fn(*args, **kwargs)
        self._stage = ""
        size = sum(map(_bytes, _distinct([*_tensors((args, kwargs)), *_tensors(result)])))
        dtype = next((x.dtype for x in _tensors(args) if x.dtype in (torch.bfloat16, torch.float16)), torch.float32)
        self.costs[self.phase, stage].add(len(counted), kernel_operations(name, args, self.sizes), size, RATES[dtype])


def stage_of(phase: str, name: str) -> str:
    """What an operation of torch is counted as."""
    if phase in ("draws and targets", "optimizer"):
        return phase
    if name in PRODUCTS:
        return "products"
    if name.startswith("native_layer_norm"):
        return "layer norms"
    if name == "_to_copy":
        return "casts"
    return "embeddings and gathers" if name in EMBEDDINGS else "elementwise"


def kernel_operations(name: str, args: Sequence[Any], sizes: np.ndarray) -> float:
    """Floating-point operations of a kernel's products: twice the multiplications, of what it computes again as well."""
    pairs, token_pairs, atoms = float((sizes**2).sum()), float(((sizes + 1) ** 2).sum()), float(sizes.sum())
    if name.startswith("attention"):
        qkv = args[0] if name.endswith("forward") else args[2]
        return (4 if name.endswith("forward") else 10) * qkv.shape[2] * qkv.shape[3] * token_pairs
    if name.startswith("atom_forces"):
        q = args[0] if name.endswith("forward") else args[3]
        return (1 if name.endswith("forward") else 3) * q.shape[1] * 2 * (q.shape[2] + 3) * pairs
    if name.startswith("relation_bias"):
        weights = args[6] if name == "relation_bias" else args[8]
        heads, gaussians = weights[0].shape[1], len(weights[4])
        shown = 0.6 * pairs  # of the default --blend-ratio
        return (1 if name == "relation_bias" else 3) * 2 * shown * gaussians * (gaussians + heads)
    outputs, width, _ = args[2].shape
    return (3 if args[-1] else 1) * 2 * outputs * (atoms * width * width + pairs * width)


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _distinct(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(x): x for x in tensors}.values())


def _bytes(x: Tensor) -> int:
    """Of the places that a tensor has, expanded ones once."""
    places = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        places *= size if stride else 1
    return places * x.element_size()


@contextlib.contextmanager
def _launches_counted(counted: list[int]) -> Iterator[None]:
    """Kernels are counted in place of being run."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        counted.append(1)

    with mock.patch.object(InterpretedFunction, "run", run), mock.patch.object(JITFunction, "run", run):
        yield


@contextlib.contextmanager
def without_gpu() -> Iterator[FakeTensorMode]:
    """Triton's ops are chosen although there is no GPU; tensors have no content; seeds need none."""
    from moleblend_fs.model import encoder
    from moleblend_fs.ops import dispatch, layer_norm
    from moleblend_fs.ops.atom_forces import launch as atom_forces
    from moleblend_fs.ops.attention import launch as attention

    with (
        mock.patch.dict(os.environ, {"MOLEBLEND_OPS": "triton"}),
        mock.patch.object(dispatch, "_obstacle", return_value=None),
        mock.patch.object(dispatch, "_tested", return_value=None),
        mock.patch.object(attention, "draw_seed", return_value=(1, 2)),
        mock.patch.object(atom_forces, "draw_seed", return_value=(1, 2)),
        mock.patch.object(layer_norm, "reads_half_precision", lambda x, gain: gain.dtype == x.dtype),
        mock.patch.object(encoder, "reads_half_precision", lambda x, gain: gain.dtype == x.dtype),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
    ):
        yield mode


def count_update(arch: str, sizes: np.ndarray, objective: str, dtype: torch.dtype = torch.bfloat16) -> Count:
    """Costs of an update of an architecture on molecules of these sizes, with an objective's default options.

    In a process of its own: constants that are kept in it have no content afterwards.
    """
    from moleblend_fs.data.batch import MoleculeBatch
    from moleblend_fs.model.config import PRESETS, ModelConfig
    from moleblend_fs.model.moleblend import MoleBlend
    from moleblend_fs.objectives.loss import weighted_loss
    from moleblend_fs.objectives.registry import objectives
    from moleblend_fs.ops.layout import Layout

    found = objectives()[objective]
    learned = found(found.Options())
    sizes = np.asarray(sizes, dtype=np.int64)
    num_atoms = torch.from_numpy(sizes)
    layout = Layout(num_atoms, "cpu")
    molecules, atoms, pairs = len(sizes), int(sizes.sum()), int((sizes**2).sum())
    count = Count(sizes)
    before = torch.get_default_dtype()
    with without_gpu():
        torch.set_default_dtype(dtype)
        try:
            model = MoleBlend(ModelConfig(**PRESETS[arch], heads=learned.heads(), **learned.config_fields())).train()
        finally:
            torch.set_default_dtype(before)
        batch = MoleculeBatch(
            num_atoms=num_atoms,
            molecule_id=torch.empty(molecules, dtype=torch.int64),
            atom_features=torch.empty(atoms, 9, dtype=torch.uint8),
            degree=torch.empty(atoms, dtype=torch.uint8),
            coordinates=torch.empty(atoms, 3),
            has_coordinates=torch.empty(molecules, dtype=torch.bool),
            spd=torch.empty(pairs, dtype=torch.uint8),
            path_bonds=torch.empty(pairs, 5, dtype=torch.uint8),
            labels=torch.empty(molecules, 0, dtype=torch.float64),
            has_label=torch.empty(molecules, 0, dtype=torch.bool),
        )
        learned.prepare(batch, layout, seed=1, epoch=0)  # constants are made once in a process
        parameters = list(model.parameters())
        flat, adam = _adam(sum(p.numel() for p in parameters))
        with count:
            count.phase = "draws and targets"
            ready = learned.prepare(batch, layout, seed=1, epoch=1)
            count.phase = "forward"
            loss = weighted_loss(learned.loss_sums(model, ready), ready.counts, [term.weight for term in learned.terms()])
            count.phase = "backward"
            loss.backward()
            count.phase = "optimizer"
            _update(parameters, flat, adam)
    return count


def _adam(size: int) -> tuple[torch.nn.Parameter, torch.optim.Adam]:
    """All weights in one float32 array, as fairseq keeps them in half precision, and torch's fused Adam, which has its moments."""
    flat = torch.nn.Parameter(torch.empty(size))
    flat.grad = torch.empty_like(flat)
    adam = torch.optim.Adam([flat], fused=True)
    adam.step()
    return flat, adam


def _update(parameters: list[torch.nn.Parameter], flat: torch.nn.Parameter, adam: torch.optim.Adam) -> None:
    """fairseq's update in half precision: gradients into the array, their norm, Adam, and the weights back."""
    assert flat.grad is not None
    start = 0
    for parameter in parameters:
        part = flat.grad[start : start + parameter.numel()]
        part.copy_((parameter if parameter.grad is None else parameter.grad).detach().view(-1))
        start += parameter.numel()
    torch.linalg.vector_norm(flat.grad, dtype=torch.float32)
    flat.grad.mul_(torch.empty(()))
    adam.step()
    start = 0
    for parameter in parameters:
        parameter.detach().copy_(flat.detach()[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


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


def lines(arch: str, name: str, molecules: int, objective: str) -> list[Line]:
    """The table of an architecture and a set's sizes, and its sum."""
    count = count_update(arch, draw_sizes(name, molecules, seed=0), objective)
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
    from moleblend_fs.objectives.registry import DEFAULT_OBJECTIVE

    parser.add_argument("--arch", default="base", help="size of the model (default %(default)s)")
    parser.add_argument("--set", default="pcqm4mv2", choices=TITLES, help="whose molecules' sizes (default %(default)s)")
    parser.add_argument("--molecules", type=int, default=4096, help="in an update (default %(default)s)")
    parser.add_argument("--objective", default=DEFAULT_OBJECTIVE, help="what is learned (default %(default)s)")
    parser.add_argument("--write", action="store_true", default=False, help=f"write {TABLE.name}, which a test compares with")


def main(args: argparse.Namespace) -> list[Row]:
    """Print the table; counts are no measurements, and make no rows."""
    found = lines(args.arch, args.set, args.molecules, args.objective)
    committed = {(line.arch, line.set, line.molecules, line.phase, line.stage): line for line in read_table()} if TABLE.exists() else {}
    print(f"{args.arch}, {args.molecules:,} molecules like {TITLES[args.set]}'s, bfloat16, {args.objective}: an update\n")
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
