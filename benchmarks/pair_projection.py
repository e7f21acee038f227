"""The pair heads' losses, forward and backward: kernels, plain torch a few molecules at a time, stored logits, built outer products."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, row
from benchmarks.measure import peak_bytes, roofline_share, seconds_of
from benchmarks.sizes import TITLES, draw_sizes
from moleblend_fs.model.config import PRESETS
from moleblend_fs.ops import dispatch
from moleblend_fs.ops import pair_projection as ops
from moleblend_fs.ops.layout import Layout

WIDTH = PRESETS["base"]["pair_dim"]
HEADS = {"SPD head": (1, 11), "edge head": (5, 24), "displacement head": (0, 3)}
"""Head -> (classifications per pair, or 0 for a cosine; classes of each or outputs)."""
BATCH = {"cpu": 64, "cuda": 4096}
REPEATS = {"cpu": 5, "cuda": 30}
MEMORY_TARGET = "<= 0.1"


@dataclass(frozen=True)
class Problem:
    """One head on one batch: left, right, weight, bias; its targets; the layout."""

    inputs: list[Tensor]
    targets: list[Tensor]
    layout: Layout
    classifications: int

    def fused(self) -> Tensor:
        """Our loss, by whatever the dispatch chooses."""
        function = ops.pair_cross_entropy if self.classifications else ops.pair_cosine
        return function(*self.inputs, *self.targets, self.layout)

    def from_logits(self) -> Tensor:
        """z of all pairs, then torch's loss."""
        return self._loss(ops.pair_projection(*self.inputs, self.layout))

    def from_outer_products(self) -> Tensor:
        """l_i r_j^T of all pairs, a linear map, torch's loss."""
        left, right, weight, bias = self.inputs
        l, r = left.index_select(0, self.layout.pair_row), right.index_select(0, self.layout.pair_column)
        return self._loss(F.linear((l.unsqueeze(2) * r.unsqueeze(1)).flatten(1), weight.flatten(1), bias))

    def _loss(self, z: Tensor) -> Tensor:
        if self.classifications:
            target = self.targets[0].reshape(-1).long()
            return F.cross_entropy(z.float().reshape(len(target), -1), target, ignore_index=-1, reduction="sum")
        target, share = self.targets
        return ((1 - F.cosine_similarity(z.float(), target, dim=1)) * share).sum()

    def work(self) -> tuple[float, float]:
        """Operations of the forward pass (the backward pass needs twice as many), and bytes of inputs and targets."""
        left, _, weight, _ = self.inputs
        outputs, m, _ = weight.shape
        flops = 2.0 * outputs * m * (m * len(left) + self.layout.num_pairs)
        return flops, float(sum(x.numel() * x.element_size() for x in (*self.inputs, *self.targets)))


def problem(sizes: np.ndarray, classifications: int, outputs: int, device: str, dtype: torch.dtype) -> Problem:
    """Random sides, a form as initialised, random targets."""
    generator = torch.Generator().manual_seed(0)
    layout = Layout(torch.from_numpy(sizes), device)
    atoms, pairs, c = layout.num_total_atoms, layout.num_pairs, max(classifications, 1) * outputs
    shapes = [((atoms, WIDTH), 1.0), ((atoms, WIDTH), 1.0), ((c, WIDTH, WIDTH), 0.02), ((c,), 0.02)]
    inputs = [(torch.randn(shape, generator=generator) * s).to(device, dtype).requires_grad_() for shape, s in shapes]
    if classifications:
        targets = [torch.randint(-1, outputs, (pairs, classifications), generator=generator, dtype=torch.int8)]
    else:
        targets = [torch.randn(pairs, outputs, generator=generator), torch.rand(pairs, generator=generator)]
    return Problem(inputs, [t.to(device) for t in targets], layout, classifications)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--molecules", type=int, default=0, help="molecules of a batch (default: 64 on a CPU, 4096 on a GPU)")


def main(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    count = getattr(args, "molecules", 0) or (2 if args.tiny else BATCH[args.device])
    kernels, repeats = args.device == "cuda" or args.tiny, 1 if args.tiny else REPEATS[args.device]
    rows: list[Row] = []
    for name, title in [("pcqm4mv2", TITLES["pcqm4mv2"])] if args.tiny else TITLES.items():
        sizes = np.array([4, 2]) if args.tiny else draw_sizes(name, count, seed=0)
        for head, (classifications, outputs) in HEADS.items():
            case = f"{title} ({sizes.mean():.1f} atoms), batch {count}, {head}, {str(dtype).removeprefix('torch.')}"
            rows += measure(case, problem(sizes, classifications, outputs, args.device, dtype), args.device, dtype, kernels, repeats)
    return rows


def measure(case: str, given: Problem, device: str, dtype: torch.dtype, kernels: bool, repeats: int) -> list[Row]:
    """All ways of one head on one batch."""
    ways: dict[str, tuple[str, Callable[[], Tensor]]] = {
        "plain torch": ("reference", given.fused),
        "stored logits": ("reference", given.from_logits),
        "outer products": ("reference", given.from_outer_products),
    }
    if device == "cuda":
        del ways["plain torch"]  # for CPUs: its rounds fit their caches, and are thousands of launches on a GPU
    if kernels:
        ways = {"kernels": ("triton", given.fused)} | ways
    rows: list[Row] = []
    both: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    flops, moved = given.work()
    for way, (implementation, loss) in ways.items():
        dispatch.configure(f"pair_projection={implementation}")

        def forward(loss: Callable[[], Tensor] = loss) -> Tensor:
            with torch.no_grad():
                return loss()

        def forward_backward(loss: Callable[[], Tensor] = loss) -> None:
            torch.autograd.grad(loss(), given.inputs)

        alone, both[way] = (seconds_of(f, repeats, device) for f in (forward, forward_backward))
        memory[way] = peak_bytes(forward_backward, device)
        for metric, seconds in (("forward", alone), ("forward + backward", both[way])):
            rows.append(row("pair_projection", case, f"{metric}, {way}", "ms", [1000 * s for s in seconds], device=device))
        rows.append(row("pair_projection", case, f"peak memory, {way}", "MiB", [memory[way] / 2**20], device=device))
        for metric, seconds, factor in (("forward", alone, 1), ("forward + backward", both[way], 3)):
            shares = roofline_share(factor * flops, factor * moved, seconds, device, dtype)
            if shares is not None:
                rows.append(row("pair_projection", case, f"share of the roofline, {metric}, {way}", "%", shares, device=device))
    dispatch.configure("auto")
    ours, *others = ways
    for way in others:
        ratio = [float(np.median(both[way])) / s for s in both[ours]]
        rows.append(row("pair_projection", case, f"{way} / {ours}, forward + backward", "x", ratio, device=device))
        target = MEMORY_TARGET if way == "outer products" else ""
        share = [memory[ours] / memory[way]]
        rows.append(row("pair_projection", case, f"{ours} / {way}, memory", "x", share, target=target, device=device))
    return rows
