"""One layer of attention with a bias for every pair, base model (32 heads of width 24), without dropout: the kernels, the plain
reference, and other libraries, at the sizes of three data sets; what cannot run is named with its reason.

Counted are what each layer does: not the preparation of the bias, but its share of the bias's gradient.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.attention_alternatives import ALTERNATIVES, ONLY_CUDA
from benchmarks.harness import Row, row
from benchmarks.measure import peak_bytes, roofline_share, seconds_of
from benchmarks.sizes import TITLES, draw_sizes
from moleblend_fs.ops.layout import Layout

HEADS, WIDTH = 32, 24
MOLECULES = {"cuda": {"pcqm4mv2": 4096, "qm9": 4096, "lipo": 1024}, "cpu": {"pcqm4mv2": 128, "qm9": 128, "lipo": 64}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=10)


def main(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    rows: list[Row] = []
    for name, molecules in MOLECULES[args.device].items():
        layout = Layout(torch.from_numpy(draw_sizes(name, molecules, seed=0)), args.device)
        medians = {}
        for title, prepare in ALTERNATIVES.items():
            case = f"{TITLES[name]}, {molecules} molecules, {str(dtype).removeprefix('torch.')}, {title}"
            if title in ONLY_CUDA and args.device != "cuda":
                print(f"{case}: not run: only on GPUs")
                continue
            try:
                found = measure(prepare, layout, dtype, case, args)
            except Exception as error:  # whatever another library says when it cannot
                print(f"{case}: not run: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                continue
            rows += found
            medians[title] = found[1].p50
        rows += comparison(name, medians, args.device)
    return rows


def inputs(layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """qkv, bias (H, P), graph bias and upstream gradient."""
    random = torch.Generator().manual_seed(0)
    shapes = ((layout.num_tokens, 3, HEADS, WIDTH), (HEADS, layout.num_pairs), (HEADS,), (layout.num_tokens, HEADS * WIDTH))
    qkv, bias, graph, upstream = (torch.randn(shape, generator=random).to(layout.device) for shape in shapes)
    return qkv.to(dtype).requires_grad_(), bias, graph, upstream.to(dtype)


def measure(prepare, layout: Layout, dtype: torch.dtype, case: str, args: argparse.Namespace) -> list[Row]:
    """Time and memory of the forward pass and of both passes, and on a GPU their share of what it could do."""
    qkv, bias, graph, upstream = inputs(layout, dtype)
    layer, leaves = prepare(qkv, bias, graph, layout)

    def forward() -> None:
        with torch.no_grad():
            layer()

    def both() -> None:
        torch.autograd.grad(layer(), leaves, upstream)

    rows = []
    for title, function, work in (
        ("forward", forward, forward_work(layout, dtype)),
        ("forward and backward", both, both_work(layout, dtype)),
    ):
        seconds = seconds_of(function, args.repeats, args.device)
        unit = "ms" if args.device == "cuda" else "CPU ms"
        rows.append(row("attention", case, title, unit, [1000 * s for s in seconds], device=args.device))
        shares = roofline_share(*work, seconds, args.device, dtype)
        if shares is not None:
            rows.append(row("attention", case, f"{title}, share of the roofline", "%", shares, device=args.device))
        memory = peak_bytes(function, args.device) / 2**20
        rows.append(row("attention", case, f"{title}, peak of tensors", "MiB", [memory], device=args.device))
    return sorted(rows, key=lambda r: (r.unit not in ("ms", "CPU ms"), rows.index(r)))


def comparison(name: str, medians: dict[str, float], device: str) -> list[Row]:
    """How many times faster than the best alternative the kernels are."""
    if "kernels" not in medians or len(medians) < 2:
        return []
    best = min(time for title, time in medians.items() if title != "kernels")
    target = ">= 2" if name == "pcqm4mv2" else ""
    case = f"{TITLES[name]}, best alternative / kernels"
    return [row("attention", case, "forward and backward", "x", [best / medians["kernels"]], target=target, device=device)]


def forward_work(layout: Layout, dtype: torch.dtype) -> tuple[float, float]:
    """Operations and bytes: two products of N x N x w a head; qkv, bias and output, with the log-sum-exp, once each."""
    squares, tokens = float(((layout.sizes + 1) ** 2).sum()), layout.num_tokens * HEADS
    moved = 4 * tokens * WIDTH * dtype.itemsize + 4 * HEADS * layout.num_pairs + 4 * tokens
    return 4 * squares * WIDTH * HEADS, moved


def both_work(layout: Layout, dtype: torch.dtype) -> tuple[float, float]:
    """The same, and back: five products; qkv, upstream gradient, log-sum-exp and bias read, the gradients of qkv and bias written."""
    flops, moved = forward_work(layout, dtype)
    tokens = layout.num_tokens * HEADS
    return 3.5 * flops, moved + 7 * tokens * WIDTH * dtype.itemsize + 4 * tokens + 8 * HEADS * layout.num_pairs
