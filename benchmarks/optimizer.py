"""Adam's step on one core, for all parameters of a model: fairseq's own, and the one of training on CPUs, in turn."""

import argparse
import time

import torch
from fairseq.optim.adam import Adam

from benchmarks.harness import Row, row
from fairseq_plugins.patches.fused_adam import OnePassAdam
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend

REPEATS = 40
KINDS = {"fairseq's (--use-old-adam)": Adam, "in one pass": OnePassAdam}


def main(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    rows: list[Row] = []
    for size in ("small", "base"):
        optimizers = {}
        for name, kind in KINDS.items():
            parameters = list(MoleBlend(ModelConfig(**PRESETS[size], heads=("property",))).parameters())  # type: ignore[arg-type]
            for parameter in parameters:
                parameter.grad = 1e-3 * torch.randn_like(parameter)
            optimizers[name] = kind(parameters, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        seconds: dict[str, list[float]] = {name: [] for name in optimizers}
        for repeat in range(-3, REPEATS):  # in turn, so that what else the machine does meets both
            for name, optimizer in optimizers.items():
                begin = time.process_time()
                optimizer.step()
                if repeat >= 0:
                    seconds[name].append(time.process_time() - begin)
        case = f"{size} ({sum(p.numel() for p in parameters):,} parameters), float32, 1 thread"
        rows += [row("optimizer", case, f"Adam, {name}", "CPU ms", [1e3 * each for each in values]) for name, values in seconds.items()]
        old, new = seconds.values()
        rows.append(row("optimizer", case, "fairseq's / in one pass", "x", [a / b for a, b in zip(old, new, strict=True)]))
    return rows
