"""Memory, communication and step time on many GPUs, computed; measured beside derived bytes; measured beside predicted times.

On a node of 8 GPUs, measured:

    torchrun --nproc-per-node 8 -m benchmarks.network_links node.json
    python -m benchmarks.timing step.json STORE --optimizer adam ...        (options of fairseq-train, one GPU)
    python -m benchmarks scaling --links node.json --step step.json --processes 1,8

Without --step the shipped sizes are computed, from --rate; without --links from --node, --network and --latency. docs/scaling.md
derives it. --compare checks predicted times on two gloo processes, --measure bytes on two and four.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import compare, timing, traffic
from benchmarks.harness import ROOT, Row, row
from benchmarks.simulate import Links, simulate
from benchmarks.sizes import TITLES, draw_sizes
from benchmarks.step import step_flops
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.objectives.blend_then_predict import BlendConfig
from moleblend_fs.planning.estimate import BUCKET, GIB, Batch, Setup, estimate, parameter_sizes, sent
from moleblend_fs.planning.estimate import traffic as predicted

ADAM_BYTES = 2 + 4 + 4 + 28 + 2
"""A parameter's bytes in an update in half precision: its gradient read and written as float32, read for the norm; gradient, master and
moments read, master and moments written, the weight written. A fused Adam moves these; fairseq's own moves more."""
NOTHING_KEPT = '{"zero_optimization": {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}}'


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What step times follow from: links within a node and beyond, and GPUs of a node."""

    node: Links
    network: Links
    gpus: int

    def links(self, processes: int) -> Links:
        return self.node if processes <= self.gpus else self.network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measure", action="store_true", help="run fairseq-train on 2 and 4 gloo processes and count bytes (minutes)")
    parser.add_argument("--compare", action="store_true", help="predict and measure updates on 2 gloo processes (minutes)")
    parser.add_argument("--links", type=Path, nargs="+", help="of benchmarks.network_links, within a node and beyond; instead of options")
    parser.add_argument("--step", type=Path, help="measured by benchmarks.timing on one process; instead of the shipped sizes")
    parser.add_argument("--update-freq", type=int, default=1, help="with --step (default %(default)s)")
    parser.add_argument("--molecules", default="pcqm4mv2", choices=sorted(TITLES), help="whose sizes (default %(default)s)")
    parser.add_argument("--batch", type=int, default=1024, help="molecules of a process (default %(default)s)")
    parser.add_argument("--rate", type=float, default=100, help="TFLOP/s that a GPU reaches in a step (default %(default)s)")
    parser.add_argument("--seconds", type=float, help="of forward and backward pass, measured; instead of --rate")
    parser.add_argument("--node", type=float, default=200, help="GB/s of a GPU within a node (default %(default)s)")
    parser.add_argument("--network", type=float, default=25, help="GB/s of a GPU to other nodes (default %(default)s)")
    parser.add_argument("--latency", type=float, default=10, help="microseconds of a message (default %(default)s)")
    parser.add_argument("--memory", type=float, default=3000, help="GB/s to a GPU's memory, in Adam (default %(default)s)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="(default %(default)s)")
    parser.add_argument("--processes", default="1,8,64,512", help="(default %(default)s)")
    parser.add_argument("--arch", default=",".join(PRESETS), help="(default %(default)s)")


def main(args: argparse.Namespace) -> list[Row]:
    defaults = argparse.ArgumentParser()
    add_arguments(defaults)
    args = argparse.Namespace(**{**vars(defaults.parse_args([])), **vars(args)})
    if args.measure:
        return measured()
    if args.compare:
        return compare.main()
    machine = machine_of(args)
    processes = [int(n) for n in args.processes.split(",")]
    if args.step:
        print_measured(timing.read(args.step), machine, processes, args.update_freq)
    else:
        print_computed(args, machine, processes)
    return []


def machine_of(args: argparse.Namespace) -> Machine:
    """Links from files where there are some: those of more processes than a node has GPUs serve beyond it."""
    rates = [Links.of_rates(rate * 1e9, args.latency * 1e-6, args.memory * 1e9) for rate in (args.node, args.network)]
    machine = {"node": rates[0], "network": rates[1]}
    for path in args.links or ():
        links = Links.read(path)
        machine["node" if links.processes <= args.gpus_per_node else "network"] = links
    return Machine(**machine, gpus=args.gpus_per_node)


def print_measured(step: timing.Step, machine: Machine, processes: list[int], frequency: int) -> None:
    """Updates of more processes, from those of one."""
    way = f"ZeRO {step.stage}" if step.stage else "DDP"
    print(f"from measured updates: {sum(step.sizes):,} parameters, {step.batch} molecules, {way}, update-freq {frequency}\n")
    print("GPUs   step ms  compute  network   copies  optimizer   rest ms    molecules/s  efficiency")
    for n in processes:
        setup = Setup(processes=n, stage=step.stage, half=step.half, update_freq=frequency)
        optimizer, rest = statistics.median(step.optimizer), statistics.median(step.rest)
        times = simulate(step.sizes, setup, machine.links(n), step.micro, optimizer=optimizer, rest=rest)
        alone = statistics.median(step.micro) * frequency
        widths = (10, 9, 9, 9, 11, 10)
        parts = "".join(f"{part * 1e3:{width}.1f}" for part, width in zip(times, widths, strict=True))
        print(f"{n:4}{parts}{step.batch * n * frequency / times.step:15,.0f}{alone / times.step:12.0%}")


def print_computed(args: argparse.Namespace, machine: Machine, processes: list[int]) -> None:
    """The shipped sizes: nothing of a step is measured."""
    print(f"computed, not measured: {TITLES[args.molecules]}, {args.batch} molecules a process, bfloat16, kernels;")
    print(f"{args.rate:g} TFLOP/s, links of {args.node:g} and {args.network:g} GB/s, {args.latency:g} us, memory of {args.memory:g} GB/s\n")
    print("arch    GPUs  ZeRO  memory GiB  sent MB  compute ms  network ms  optimizer ms  step ms    molecules/s  efficiency")
    atoms = draw_sizes(args.molecules, args.batch, seed=0)
    for arch in args.arch.split(","):
        config = ModelConfig(**PRESETS[arch], heads=BlendConfig().predict)
        sizes = parameter_sizes(config)
        compute = args.seconds or step_flops(atoms, config) / (args.rate * 1e12)
        for n in processes:
            for stage in range(4 if n > 1 else 1):
                setup = Setup(processes=n, stage=stage, half=True, kernels=True, bucket=min(BUCKET, sum(sizes)))
                memory = estimate(sizes, config, batch_of(atoms), setup).peak / GIB
                volume = sent(predicted(sizes, setup), n) / 1e6
                adam = ADAM_BYTES * sum(sizes) / (args.memory * 1e9)
                times = simulate(sizes, setup, machine.links(n), [compute], optimizer=adam)
                print(
                    f"{arch:6}{n:6}{stage:6}{memory:12.1f}{volume:9.0f}{compute * 1e3:12.1f}{times.network * 1e3:12.1f}"
                    f"{times.optimizer * 1e3:14.1f}{times.step * 1e3:9.1f}{args.batch * n / times.step:15,.0f}{compute / times.step:12.0%}"
                )


def batch_of(atoms: np.ndarray) -> Batch:
    """What molecules of these sizes are together."""
    return Batch(len(atoms), int(atoms.sum()), int((atoms**2).sum()))


def measured() -> list[Row]:
    """Bytes handed to collectives in the last of three updates of the tiny model, and the derived ones as the target."""
    rows: list[Row] = []
    config = ModelConfig(**PRESETS["tiny"], heads=BlendConfig().predict)
    sizes = parameter_sizes(config)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        sample = ROOT / "examples/quickstart/qm9_sample.csv.xz"
        command = [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", "qm9", str(sample), str(store)]
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
                        rows.append(row("traffic", case, kind, "bytes", [size], target=f"{derived:,}"))
                    rows.append(row("traffic", case, "counts and logs", "bytes", [found.get("small", 0)]))
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
