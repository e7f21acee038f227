"""The rate of a block's matrix products on one core, through MKL, where torch sends them, and through oneDNN, where `ops.linear` does."""

import argparse
import time

import torch

from benchmarks.harness import Row, row
from moleblend_fs.ops.linear import onednn_product

ROWS, WIDTH, REPEATS = 1152, 768, 40
"""64 molecules of 18 tokens, the width of the base model."""


def main(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    onednn = onednn_product()
    if onednn is None:
        return []
    x, weight = torch.randn(ROWS, WIDTH), torch.randn(WIDTH, WIDTH)
    ways = {"MKL": lambda: torch.nn.functional.linear(x, weight), "oneDNN": lambda: onednn(x, weight, None, "none", [], "")}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-5, REPEATS):  # in turn, so that what else the machine does meets both
        for name, product in ways.items():
            begin = time.process_time()
            for _ in range(10):
                product()
            if repeat >= 0:
                rates[name].append(10 * 2 * ROWS * WIDTH * WIDTH / (time.process_time() - begin) / 1e9)
    case = f"({ROWS:,}, {WIDTH}) x ({WIDTH}, {WIDTH}), float32, 1 thread"
    ratios = [b / a for a, b in zip(rates["MKL"], rates["oneDNN"], strict=True)]
    found = [row("products", case, name, "GFLOP/CPU s", values) for name, values in rates.items()]
    return [*found, row("products", case, "oneDNN / MKL", "x", ratios)]
