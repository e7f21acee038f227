"""The relation bias and the atoms' 3D features: kernels, plain torch a few pairs at a time, features of all relations stored."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, row
from benchmarks.measure import peak_bytes, peak_of, seconds_of
from benchmarks.sizes import TITLES, draw_sizes
from moleblend_fs.data.graph import MAX_HOPS, NUM_BOND_CLASSES, UNREACHABLE
from moleblend_fs.model.config import PRESETS
from moleblend_fs.ops import dispatch
from moleblend_fs.ops import relation_bias as ops
from moleblend_fs.ops.embedding_rows import (
    ELEMENT_ROWS,
    FIRST_ELEMENT_ROW,
    SECOND_ELEMENT_ROW,
    SPD_FIRST_ROW,
    TABLE_ROWS,
    UNREACHABLE_ROW,
)
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias.reference import gaussians

HEADS, GAUSSIANS = PRESETS["base"]["attention_heads"], PRESETS["base"]["gaussians"]
SHOWN = {"pretraining": "one relation a pair, 2:2:6", "finetuning": "all relations"}
BATCH = {"cpu": 512, "cuda": 4096}
REPEATS = {"cpu": 3, "cuda": 30}
TARGETS = {"cpu": ("", "<= 0.1"), "cuda": (">= 10", "<= 0.05")}
"""Device -> how many times faster than with stored features, and the share of its memory."""


@dataclass(frozen=True)
class Problem:
    """One batch: the op's arguments, and upstream gradients of the bias and of the sums."""

    shown: Tensor
    spd: Tensor
    path: Tensor
    atom_distance: Tensor
    coordinates: Tensor
    element: Tensor
    weights: ops.RelationWeights
    layout: Layout
    upstream: tuple[Tensor, Tensor]

    def fused(self) -> tuple[Tensor, Tensor]:
        """Our op, by whatever the dispatch chooses."""
        given = (self.shown, self.spd, self.path, self.atom_distance, self.coordinates, self.element)
        return ops.relation_bias(*given, self.weights, self.layout)

    def with_stored_features(self) -> tuple[Tensor, Tensor]:
        """All three encodings of every pair, hop by hop and Gaussian by Gaussian, then what is shown of them."""
        w, layout = self.weights, self.layout
        spd, element = self.spd.long(), self.element.long()
        spd_PH = F.embedding(torch.where(spd == UNREACHABLE, UNREACHABLE_ROW, spd + SPD_FIRST_ROW), w.spd_table)
        hops = torch.arange(5, device=spd.device)
        edge_PH = w.hop_table[hops, self.path.long()].sum(1) / spd.clamp(1, 5).unsqueeze(1)
        first, second = element[layout.pair_row] + FIRST_ELEMENT_ROW, element[layout.pair_column] + SECOND_ELEMENT_ROW
        distance = (self.coordinates[layout.pair_row] - self.coordinates[layout.pair_column]).norm(dim=1)
        x = (w.mul[first] + w.mul[second]) * distance + w.shift[first] + w.shift[second]
        features_PK = gaussians(x, w.means, w.stds)
        distance_PH = F.linear(F.gelu(F.linear(features_PK, w.weight1, w.bias1)), w.weight2, w.bias2)
        shares = [((self.shown & bit) > 0).unsqueeze(1) for bit in (ops.SHOW_SPD, ops.SHOW_EDGE, ops.SHOW_DISTANCE)]
        bias_PH = spd_PH * shares[0] + edge_PH * shares[1] + distance_PH * shares[2]
        sums_AK = features_PK.new_zeros(len(element), GAUSSIANS).index_add(0, layout.pair_row, features_PK)
        return bias_PH, sums_AK * self.atom_distance.unsqueeze(1)

    def work(self) -> tuple[float, float]:
        """Operations of the linear layers in the forward pass, of the pairs that show a distance (the backward pass needs twice as
        many), and bytes of the pairs' inputs and of both results (the backward pass moves as many)."""
        pairs = int(((self.shown & ops.SHOW_DISTANCE) > 0).sum())
        moved = sum(x.numel() * x.element_size() for x in (self.shown, self.spd, self.path, *self.upstream))
        return 2.0 * pairs * GAUSSIANS * (GAUSSIANS + HEADS), float(moved)


def problem(sizes: np.ndarray, mode: str, device: str, *, kernels: bool) -> Problem:
    """Random molecules, weights as initialised; gradients laid out as the kernels, or plain torch, hand them on."""
    random = torch.Generator().manual_seed(0)
    layout = Layout(torch.from_numpy(sizes), device)
    pairs, atoms = layout.num_pairs, layout.num_total_atoms

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=random, dtype=torch.uint8)

    if mode == "pretraining":
        relation = torch.multinomial(torch.tensor([0.2, 0.2, 0.6]), pairs, replacement=True, generator=random)
        shown, wants = (1 << relation).to(torch.uint8), torch.rand(atoms, generator=random) < 0.6
    else:
        shown, wants = torch.full((pairs,), 7, dtype=torch.uint8), torch.ones(atoms, dtype=torch.bool)
    weights = [0.02 * normal(TABLE_ROWS, HEADS), 0.02 * normal(MAX_HOPS, NUM_BOND_CLASSES, HEADS)]
    weights += [torch.ones(ELEMENT_ROWS), torch.zeros(ELEMENT_ROWS)]
    weights += [3 * torch.rand(GAUSSIANS, generator=random), 3 * torch.rand(GAUSSIANS, generator=random)]
    weights += [0.02 * normal(GAUSSIANS, GAUSSIANS), torch.zeros(GAUSSIANS), 0.02 * normal(HEADS, GAUSSIANS), torch.zeros(HEADS)]
    inputs = (
        shown,
        integers(1, 12, pairs),
        integers(0, NUM_BOND_CLASSES, pairs, MAX_HOPS),
        wants,
        2 * normal(atoms, 3),
        integers(5, 9, atoms),
    )
    return Problem(
        *(x.to(device) for x in inputs),
        weights=ops.RelationWeights(*(w.to(device).requires_grad_() for w in weights)),
        layout=layout,
        # The attention kernels sum the bias's gradient as (H, P); plain attention gives it as it reads the bias, (P, H).
        upstream=(normal(HEADS, pairs).to(device).t() if kernels else normal(pairs, HEADS), normal(atoms, GAUSSIANS).to(device)),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--molecules", type=int, help="molecules of a batch (default: 512 on a CPU, 4096 on a GPU)")


def main(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    count = getattr(args, "molecules", None) or (2 if args.tiny else BATCH[args.device])
    kernels = args.device == "cuda" or args.tiny
    rows: list[Row] = []
    if not kernels:
        print("kernels: not timed on a CPU, where only Triton's interpreter could run them\n")
    for name, title in [("pcqm4mv2", TITLES["pcqm4mv2"])] if args.tiny else TITLES.items():
        sizes = np.array([4, 2]) if args.tiny else draw_sizes(name, count, seed=0)
        for mode, what in SHOWN.items():
            case = f"{title} ({sizes.mean():.1f} atoms), batch {count}, {what}"
            rows += measure(
                case, problem(sizes, mode, args.device, kernels=kernels), args.device, kernels, 1 if args.tiny else REPEATS[args.device]
            )
    return rows


def ways_of(given: Problem, device: str, kernels: bool) -> dict[str, tuple[str, bool, Callable[[], tuple[Tensor, Tensor]]]]:
    """Name -> (implementation, whether products are in TF32, function); ours first. Plain torch is for CPUs: its rounds fit their caches,
    and are ten thousand launches on a GPU."""
    plain: dict[str, tuple[str, bool, Callable[[], tuple[Tensor, Tensor]]]] = {
        "plain torch": ("reference", False, given.fused),
        "stored features": ("reference", False, given.with_stored_features),
    }
    if not kernels:
        return plain
    if device == "cuda":
        del plain["plain torch"]
    return {"kernels, TF32": ("triton", True, given.fused), "kernels, float32": ("triton", False, given.fused)} | plain


def measure(case: str, given: Problem, device: str, kernels: bool, repeats: int) -> list[Row]:
    """All ways on one batch."""
    rows: list[Row] = []
    both: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    flops, moved = given.work()
    ways = ways_of(given, device, kernels)
    for way, (implementation, tf32, function) in ways.items():
        dispatch.configure(f"relation_bias={implementation}")
        torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"

        def forward(function: Callable[[], tuple[Tensor, Tensor]] = function) -> None:
            with torch.no_grad():
                function()

        def forward_backward(function: Callable[[], tuple[Tensor, Tensor]] = function) -> None:
            torch.autograd.grad(function(), given.weights, given.upstream)

        alone, both[way] = (seconds_of(f, repeats, device) for f in (forward, forward_backward))
        memory[way] = peak_bytes(forward_backward, device)
        for metric, seconds, times_work in (("forward", alone, (1, 1)), ("forward + backward", both[way], (3, 2))):
            rows.append(row("relation_bias", case, f"{metric}, {way}", "ms", [1000 * s for s in seconds], device=device))
            peak = peak_of(device)
            if peak is not None:
                least = max(times_work[0] * flops / peak.tf32, times_work[1] * moved / peak.memory)
                shares = [100 * least / s for s in seconds]
                rows.append(row("relation_bias", case, f"share of the roofline in TF32, {metric}, {way}", "%", shares, device=device))
        rows.append(row("relation_bias", case, f"peak memory, {way}", "MiB", [memory[way] / 2**20], device=device))
    dispatch.configure("auto")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    ours, *others = ways
    for way in others:
        faster, smaller = TARGETS[device] if way == "stored features" else ("", "")
        ratio = [float(np.median(both[way])) / s for s in both[ours]]
        rows.append(row("relation_bias", case, f"{way} / {ours}, forward + backward", "x", ratio, target=faster, device=device))
        share = [memory[ours] / memory[way]]
        rows.append(row("relation_bias", case, f"{ours} / {way}, memory", "x", share, target=smaller, device=device))
    return rows
