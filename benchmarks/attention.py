"""One layer of attention with a bias for every pair, base model (32 heads of width 24), without dropout: the kernels, the plain
reference, and other libraries, at the sizes of three data sets; what cannot run, or gives other numbers, is named with its reason.

Counted are what each layer does: not the preparation of the bias, but its share of the bias's gradient. As in training, the layers of
a backward pass add up one gradient of the bias, and all but the first of them read and write it.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks.attention_alternatives import ALTERNATIVES, OURS, REHEARSED, WITHOUT_GPU, Prepared, reference, within
from benchmarks.harness import Row, row
from benchmarks.measure import peak_bytes, roofline_share, seconds_of
from benchmarks.sizes import TITLES, draw_sizes
from moleblend_fs.ops.layout import Layout

HEADS, WIDTH = 32, 24
MOLECULES = {"cuda": {"pcqm4mv2": 4096, "qm9": 4096, "lipo": 1024}, "cpu": {"pcqm4mv2": 128, "qm9": 128, "lipo": 64}}
LAYERS = {"cuda": 12, "cpu": 3}
"""That share a bias."""
OFF = {torch.bfloat16: 4e-2, torch.float32: 1e-4}
"""How far results may be from the reference's in float64, as a share of the largest value: rounding explains that much."""

Inputs = tuple[list[Tensor], Tensor, Tensor, Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--sets", nargs="+", choices=MOLECULES["cuda"], default=list(MOLECULES["cuda"]), help="whose sizes (default: all)")
    parser.add_argument("--only", nargs="+", choices=ALTERNATIVES, default=list(ALTERNATIVES), metavar="ALTERNATIVE", help="default: all")


def main(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    rows: list[Row] = []
    for name, molecules in ({"pcqm4mv2": 2} if args.tiny else {name: MOLECULES[args.device][name] for name in args.sets}).items():
        sizes = np.array([4, 17]) if args.tiny else draw_sizes(name, molecules, seed=0)
        layout = Layout(torch.from_numpy(sizes), args.device)
        medians = {}
        for title in args.only:
            prepare = ALTERNATIVES[title]
            case = f"{TITLES[name]}, {molecules} molecules, {str(dtype).removeprefix('torch.')}, {title}"
            if args.device != "cuda" and title not in (*WITHOUT_GPU, *(REHEARSED if args.tiny else ())):
                print(f"{case}: not run: only on GPUs")
                continue
            try:
                check(prepare, name, dtype, args)
                found = measure(prepare, layout, dtype, case, args)
            except Exception as error:  # whatever another library says when it cannot
                if title in OURS:
                    raise
                print(f"{case}: not run: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                continue
            rows += found
            medians[title] = found[1].p50
        rows += comparison(name, medians, args.device)
    return rows


def inputs(layout: Layout, dtype: torch.dtype, layers: int, heads: int = HEADS) -> Inputs:
    """qkv of each layer, bias (H, P), graph bias and upstream gradient."""
    random = torch.Generator().manual_seed(0)
    shapes = ((layout.num_tokens, 3, heads, WIDTH), (heads, layout.num_pairs), (heads,), (layout.num_tokens, heads * WIDTH))
    qkv, bias, graph, upstream = (torch.randn(shape, generator=random).to(layout.device) for shape in shapes)
    return [qkv.to(dtype, copy=True).requires_grad_() for _ in range(layers)], bias, graph, upstream.to(dtype)


def results(prepare, given: Inputs, layout: Layout) -> list[Tensor]:
    """The output of a layer, and the gradients of all layers' queries, keys and values."""
    qkvs, bias, graph, upstream = given
    layer, leaves = prepare(bias.clone(), graph.clone(), layout, upstream.dtype)
    with within(layer):
        outputs = [layer(qkv) for qkv in qkvs]
        gradients = torch.autograd.grad(outputs, [*qkvs, *leaves], [upstream] * len(qkvs))
    return [outputs[0].detach(), *gradients[: len(qkvs)]]


def check(prepare, name: str, dtype: torch.dtype, args: argparse.Namespace) -> None:
    """Hold an alternative's results on some molecules against the plain implementation's in float64.

    Raises:
        ArithmeticError: they are others: its time would mean nothing.
    """
    layout = Layout(torch.from_numpy(np.array([3, 20]) if args.tiny else draw_sizes(name, 64, seed=1)), args.device)
    given = inputs(layout, dtype, layers=2, heads=2 if args.tiny else HEADS)
    in_float64 = ([qkv.detach().double().requires_grad_() for qkv in given[0]], *(x.double() for x in given[1:]))
    ours, exact = results(prepare, given, layout), results(reference, in_float64, layout)
    off = [float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(ours, exact, strict=True)]
    if not max(off) <= OFF[dtype]:  # NaN is no less
        raise ArithmeticError(f"other numbers than plain attention in float64: output and gradients of qkv off by {off}")


def measure(prepare, layout: Layout, dtype: torch.dtype, case: str, args: argparse.Namespace) -> list[Row]:
    """Time and memory of the forward pass and of both passes of a layer, and on a GPU their share of what it could do."""
    layers = 2 if args.tiny else LAYERS[args.device]
    qkvs, bias, graph, upstream = inputs(layout, dtype, layers, 2 if args.tiny else HEADS)
    prepared: Prepared = prepare(bias, graph, layout, dtype)
    layer, leaves = prepared

    def forward() -> None:
        with torch.no_grad(), within(layer):
            for qkv in qkvs:
                layer(qkv)

    def both() -> None:
        with within(layer):
            torch.autograd.grad([layer(qkv) for qkv in qkvs], [*qkvs, *leaves], [upstream] * layers)

    rows = []
    for title, function, work in (
        ("forward", forward, forward_work(layout, dtype)),
        ("forward and backward", both, both_work(layout, dtype)),
    ):
        seconds = [s / layers for s in seconds_of(function, 1 if args.tiny else args.repeats, args.device)]
        unit = "ms" if args.device == "cuda" else "CPU ms"
        rows.append(row("attention", case, title, unit, [1000 * s for s in seconds], device=args.device))
        shares = roofline_share(*work, seconds, args.device, dtype)
        if shares is not None:
            rows.append(row("attention", case, f"{title}, share of the roofline", "%", shares, device=args.device))
        memory = peak_bytes(function, args.device) / 2**20
        rows.append(row("attention", case, f"{title}, peak of tensors, {layers} layers", "MiB", [memory], device=args.device))
    return sorted(rows, key=lambda r: (r.unit not in ("ms", "CPU ms"), rows.index(r)))


def comparison(name: str, medians: dict[str, float], device: str) -> list[Row]:
    """How many times faster than the best alternative the kernels are."""
    if "kernels" not in medians or len(medians) < 2:
        return []
    best = min((time for title, time in medians.items() if title not in OURS), default=None)
    if best is None:
        return []
    target = ">= 2" if name == "pcqm4mv2" else ""
    case = f"{TITLES[name]}, best alternative / kernels"
    return [row("attention", case, "forward and backward", "x", [best / medians["kernels"]], target=target, device=device)]


def forward_work(layout: Layout, dtype: torch.dtype) -> tuple[float, float]:
    """Operations and bytes: two products of N x N x w a head; qkv, bias and output, with the log-sum-exp, once each."""
    squares, tokens = float(((layout.sizes + 1) ** 2).sum()), layout.num_tokens * HEADS
    moved = 4 * tokens * WIDTH * dtype.itemsize + 4 * HEADS * layout.num_pairs + 4 * tokens
    return 4 * squares * WIDTH * HEADS, moved


def both_work(layout: Layout, dtype: torch.dtype) -> tuple[float, float]:
    """The same, and back: five products; qkv, upstream gradient, log-sum-exp, bias and its gradient read, gradients of both written."""
    flops, moved = forward_work(layout, dtype)
    tokens = layout.num_tokens * HEADS
    return 3.5 * flops, moved + 7 * tokens * WIDTH * dtype.itemsize + 4 * tokens + 12 * HEADS * layout.num_pairs
