"""Memory, communication and step time of every shipped size on many GPUs; with --measure, bytes of real runs beside the derived ones.

Without --measure a table is computed, not measured, from `moleblend_fs.distributed.estimate`: compute from --rate (what the
step benchmark reached on a GPU) or --seconds, links from --node, --network and --latency, which `benchmarks.links` measures.
docs/scaling.md derives it.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import traffic
from benchmarks.harness import ROOT, Row, row
from benchmarks.sizes import TITLES, draw_sizes
from benchmarks.step import step_flops
from moleblend_fs.distributed.estimate import GIB, PERSISTENT, Batch, Setup, estimate, parameter_sizes, sent
from moleblend_fs.distributed.estimate import traffic as predicted
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.objectives.config import BlendConfig

DDP_BUCKET = 25 * 2**20
"""Bytes of gradients that torch's DDP reduces at once."""
NOTHING_KEPT = '{"zero_optimization": {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}}'


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What step times follow from.

    Attributes:
        rate: floating-point operations per second that a GPU reaches in a step.
        node, network: bytes per second that a GPU can send within its node, and to others when all GPUs of the node do.
        latency: seconds of one message.
        gpus: of a node.
    """

    rate: float
    node: float
    network: float
    latency: float
    gpus: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measure", action="store_true", help="run fairseq-train on 2 and 4 gloo processes and count bytes (minutes)")
    parser.add_argument("--molecules", default="pcqm4mv2", choices=sorted(TITLES), help="whose sizes (default %(default)s)")
    parser.add_argument("--batch", type=int, default=1024, help="molecules of a process (default %(default)s)")
    parser.add_argument("--rate", type=float, default=100, help="TFLOP/s that a GPU reaches in a step (default %(default)s)")
    parser.add_argument("--seconds", type=float, help="of forward and backward pass, measured; instead of --rate")
    parser.add_argument("--node", type=float, default=200, help="GB/s of a GPU within a node (default %(default)s)")
    parser.add_argument("--network", type=float, default=25, help="GB/s of a GPU to other nodes (default %(default)s)")
    parser.add_argument("--latency", type=float, default=10, help="microseconds of a message (default %(default)s)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="(default %(default)s)")
    parser.add_argument("--processes", default="1,8,64,512", help="(default %(default)s)")
    parser.add_argument("--arch", default=",".join(PRESETS), help="(default %(default)s)")


def main(args: argparse.Namespace) -> list[Row]:
    defaults = argparse.ArgumentParser()
    add_arguments(defaults)
    args = argparse.Namespace(**{**vars(defaults.parse_args([])), **vars(args)})
    if args.measure:
        return measured()
    machine = Machine(
        rate=args.rate * 1e12, node=args.node * 1e9, network=args.network * 1e9, latency=args.latency * 1e-6, gpus=args.gpus_per_node
    )
    print(f"computed, not measured: {TITLES[args.molecules]}, {args.batch} molecules a process, bfloat16, kernels;")
    print(f"{args.rate:g} TFLOP/s, links of {args.node:g} and {args.network:g} GB/s, {args.latency:g} us\n")
    print("arch    GPUs  ZeRO  memory GiB  sent MB  compute ms  network ms  step ms    molecules/s  efficiency")
    atoms = draw_sizes(args.molecules, args.batch, seed=0)
    for arch in args.arch.split(","):
        config = ModelConfig(**PRESETS[arch], heads=BlendConfig().predict)
        sizes = parameter_sizes(config)
        compute = args.seconds or step_flops(atoms, config) / machine.rate
        for processes in map(int, args.processes.split(",")):
            for stage in range(4 if processes > 1 else 1):
                setup = Setup(processes=processes, stage=stage, half=True, kernels=True)
                memory = estimate(sizes, config, batch_of(atoms), setup).peak / GIB
                volume = sent(predicted(sizes, setup), processes) / 1e6
                network = network_seconds(sizes, setup, machine)
                step = step_seconds(compute, network, stage)
                print(
                    f"{arch:6}{processes:6}{stage:6}{memory:12.1f}{volume:9.0f}{compute * 1e3:12.1f}{network * 1e3:12.1f}{step * 1e3:9.1f}"
                    f"{args.batch * processes / step:15,.0f}{compute / step:12.0%}"
                )
    return []


def batch_of(atoms: np.ndarray) -> Batch:
    """What molecules of these sizes are together."""
    return Batch(len(atoms), int(atoms.sum()), int((atoms**2).sum()))


def network_seconds(sizes: Sequence[int], setup: Setup, machine: Machine) -> float:
    """Time of an update's collectives, one after the other: bytes over the slowest link on the ring, and a tree's latency a call."""
    n = setup.processes
    if n == 1:
        return 0.0
    bandwidth = machine.node if n <= machine.gpus else machine.network
    volume = predicted(sizes, setup)
    return sent(volume, n) / bandwidth + calls(sizes, setup) * machine.latency * math.ceil(math.log2(n))


def calls(sizes: Sequence[int], setup: Setup) -> int:
    """Collectives of an update (one micro-batch): buckets of gradients; ZeRO 3 gathers and scatters each large parameter by itself."""
    if setup.stage == 0:
        return math.ceil(setup.width * sum(sizes) / DDP_BUCKET)
    if setup.stage < 3:
        return 2 * math.ceil(sum(sizes) / 5e8)
    return len(sizes) + sum(size >= PERSISTENT for size in sizes) + math.ceil(sum(sizes) / 5e8)


def step_seconds(compute: float, network: float, stage: int) -> float:
    """DDP and ZeRO 3 communicate during the backward pass, two thirds of the compute; ZeRO 1 and 2 after it."""
    hidden = 2 / 3 * compute if stage in (0, 3) else 0.0
    return compute + max(0.0, network - hidden)


def measured() -> list[Row]:
    """Bytes handed to collectives in the last of three updates of the tiny model, and the derived ones as the target."""
    rows: list[Row] = []
    config = ModelConfig(**PRESETS["tiny"], heads=BlendConfig().predict)
    sizes = parameter_sizes(config)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        sample = ROOT / "examples/quickstart/qm9_sample.csv.xz"
        command = [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", "qm9", sample, store]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        json = Path(folder) / "nothing_kept.json"
        json.write_text(NOTHING_KEPT)
        for processes in (2, 4):
            for frequency in (1, 2):
                for name, setup, options in cases(processes, frequency, json):
                    where = Path(folder) / f"{name}-{processes}-{frequency}".replace(" ", "")
                    last = traffic.run(store, where, [*options, "--update-freq", str(frequency)], processes)[-1]
                    expected = predicted(sizes, setup)
                    case = f"tiny, {processes} gloo processes, {name}, update-freq {frequency}"
                    found = traffic.totals(last)
                    for kind in sorted({*expected, *found} - {"small"}):
                        size, derived = found.get(kind, 0), expected.get(kind, 0)
                        rows.append(row("scaling", case, kind, "bytes", [size], target=f"{derived:,}"))
                        rows.append(row("scaling", case, f"{kind}, beyond what was derived", "bytes", [size - derived]))
                    rows.append(row("scaling", case, "counts and logs", "bytes", [found.get("small", 0)]))
    return rows


def cases(processes: int, frequency: int, json: Path) -> list[tuple[str, Setup, list[str]]]:
    """Name, setup and options of each way to train."""
    result = [("DDP", Setup(processes=processes, update_freq=frequency), ["--optimizer", "adam"])]
    for stage in (1, 2, 3):
        setup = Setup(processes=processes, stage=stage, update_freq=frequency)
        result.append((f"ZeRO {stage}", setup, ["--optimizer", "deepspeed", "--zero-stage", str(stage)]))
    setup = Setup(processes=processes, stage=3, update_freq=frequency, reuse=0)
    options = ["--optimizer", "deepspeed", "--zero-stage", "3", "--deepspeed-config", str(json)]
    return [*result, ("ZeRO 3 keeping nothing", setup, options)]
