"""Molecules per second through `fairseq-train`: loader, optimizer, logging and all, from a store of PCQM4Mv2's sample or QM9's.

On a GPU the base model in bfloat16 with and without kernels; on a CPU the small one in float32. The sample's molecules are repeated
so that every batch of an epoch but the last is full.
"""

import argparse
import csv
import gzip
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.harness import ROOT, Row, row
from moleblend_fs.ops.dispatch import VARIABLE
from moleblend_fs.sources.pcqm4mv2 import SDF, SPLITS, read_split_dict

LINE = re.compile(r"\| train_inner \| (\{.*\})\s*$", re.MULTILINE)
UPDATES = {("cpu", "reference"): (40, 10), ("cuda", "triton"): (150, 25), ("cuda", "reference"): (9, 3)}
"""Device and ops -> updates of a run, and of a log interval; the first interval warms up. Without kernels one takes seconds on a GPU."""
MOLEBLEND = (sys.executable, "-m", "moleblend_fs.cli.main")
FULL_BATCHES = 25
"""Of an epoch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared = Path(os.environ.get("MOLEBLEND_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--pcqm4mv2", type=Path, default=shared / "data/pcqm4mv2", help="PCQM4Mv2's folder (default %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=8 if len(os.sched_getaffinity(0)) >= 10 else 1, help="of the loader (default %(default)s)"
    )
    parser.add_argument(
        "--ops", nargs="+", choices=("triton", "reference"), default=["triton", "reference"], help="on a GPU (default: both)"
    )
    parser.add_argument("--batch-size", type=int, default=0, help="molecules of a batch (default 4096 on a GPU, 64 on a CPU)")


def main(args: argparse.Namespace) -> list[Row]:
    gpu = args.device == "cuda"
    size = 8 if args.tiny else args.batch_size or (4096 if gpu else 64)
    model = "base, bfloat16" if gpu else f"{'tiny' if args.tiny else 'small'}, float32, 1 thread"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        if args.tiny:
            source, limit = args.pcqm4mv2, ["--limit", "40"]
        else:
            source, limit = Path(folder) / "repeated", []
            repeat(args.pcqm4mv2, source, FULL_BATCHES * size)
        preprocess = [*MOLEBLEND, "preprocess", "pcqm4mv2", source, store, "--no-progress", *limit]
        subprocess.run(preprocess, cwd=ROOT, check=True, capture_output=True)
        for ops in args.ops if gpu else ("reference",):
            rates = train(store, Path(folder) / ops, args, ops, size)
            case = f"fairseq-train, PCQM4Mv2, {model}, batch {size}, {args.workers} loader workers, {ops} ops"
            target = ">= 47,400" if (gpu, ops) == (True, "triton") else ""
            rows.append(row("end_to_end", case, "training", "molecules/s", rates, target=target, device=args.device))
    return rows


def repeat(source: Path, target: Path, least: int) -> None:
    """A folder as PCQM4Mv2's release with its training molecules, over and over until there are `least` of them; no others."""
    table = next(source.glob("**/raw/data.csv.gz"))
    structures = next(source.glob(f"**/{SDF}"))
    with gzip.open(table, "rt", newline="") as stream:
        head, *lines = csv.reader(stream)
    training = [lines[place] for place in read_split_dict(table.parents[1] / "split_dict.pt")["train"].tolist()]
    times = math.ceil(least / len(training))
    (target / "raw").mkdir(parents=True)
    with gzip.open(target / "raw" / "data.csv.gz", "wt", newline="", compresslevel=1) as stream:
        csv.writer(stream).writerows([head, *training * times])
    with open(target / SDF, "wb") as out:
        for _ in range(times):
            out.write(structures.read_bytes())
    # Tensors: of arrays, an empty one would have to be unpickled by code.
    places = {name: torch.arange(times * len(training) if name == "train" else 0) for name in SPLITS}
    torch.save(places, target / "split_dict.pt")


def train(store: Path, folder: Path, args: argparse.Namespace, ops: str, size: int) -> list[float]:
    """Molecules per second of each log interval after the first."""
    gpu = args.device == "cuda"
    command = [sys.executable, "-m", "fairseq_cli.train", store, "--user-dir", "moleblend_fs", "--task", "moleblend"]
    command += [
        "--criterion",
        "blend_then_predict",
        "--arch",
        f"moleblend_{'base' if gpu else 'tiny' if args.tiny else 'small'}",
        "--ops",
        ops,
        "--save-dir",
        folder,
    ]
    updates, every = (2, 1) if args.tiny else UPDATES[args.device, ops]
    command += ["--batch-size", size, "--num-workers", args.workers, "--max-update", updates, "--seed", 1]
    command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.999)", "--lr", "2e-4", "--clip-norm", 5, "--lr-scheduler", "fixed"]
    command += ["--log-format", "json", "--log-interval", every, "--no-save", "--disable-validation"]
    command += ["--train-subset", "train", *(["--bf16"] if gpu else ["--cpu"])]
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if not gpu:
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"fairseq-train ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    logged = [json.loads(found) for found in LINE.findall(done.stdout + done.stderr)]
    return [float(values["mols_per_second"]) for values in logged[1:]]
