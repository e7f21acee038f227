"""Predicted and measured times of real updates on two gloo processes, for `python -m benchmarks scaling --compare`.

A prediction knows: steps of one process without accumulation (two independent ones at a time, for as much is done on the machine then
as in the real run), and collectives of two processes. Nothing is fitted to the runs that are predicted.
"""

import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import timing
from benchmarks.harness import ROOT, Row, row
from benchmarks.simulate import Links, Times, simulate
from moleblend_fs.planning.estimate import Setup

MODELS = {
    "small": ["--arch", "moleblend_small"],
    "wide": ["--arch", "moleblend_small", "--embed-dim", "768", "--ffn-dim", "768"],
}
WAYS = {
    "DDP": ["--optimizer", "adam"],
    "ZeRO 1": ["--optimizer", "deepspeed", "--zero-stage", "1"],
    "ZeRO 2": ["--optimizer", "deepspeed", "--zero-stage", "2"],
    "ZeRO 3": ["--optimizer", "deepspeed", "--zero-stage", "3"],
}
BATCH, UPDATES, PROCESSES = 8, 40, 2


def main() -> list[Row]:
    """Rows of predicted and measured seconds, and their ratio."""
    rows: list[Row] = []
    print("model   way     update-freq  measured ms  predicted ms  ratio   compute  network    copies optimizer      rest   others: cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = ROOT / "examples/quickstart/qm9_sample.csv.xz"
        command = [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", "qm9", str(sample), str(folder / "store")]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        for model, size in MODELS.items():
            links, work = measured_links(folder), measured_links(folder, "--cpu-seconds")
            for way, options in WAYS.items():
                alone = one_process(folder, [*size, *options])
                for frequency in (1, 2):
                    real = measured(folder, [*size, *options], frequency)
                    setup = Setup(processes=PROCESSES, stage=alone.stage, half=alone.half, update_freq=frequency)
                    times = predict(alone, setup, links)
                    seconds = statistics.median(real.whole)
                    parts = "".join(f"{1e3 * part:10.1f}" for part in times[1:])
                    said = f"{statistics.median(alone.others):.2f}, {statistics.median(real.others):.2f}"
                    ratio = times.step / seconds
                    print(
                        f"{model:8}{way:8}{frequency:11}{1e3 * seconds:13.1f}{1e3 * times.step:14.1f}{ratio:7.2f}{parts}   {said}",
                        flush=True,
                    )
                    case = f"{model} ({sum(real.sizes):,}), {PROCESSES} gloo processes, batch {BATCH}, {way}, update-freq {frequency}"
                    rows.append(row("scaling", case, "update, measured", "s", real.whole))
                    rows.append(row("scaling", case, "update, predicted", "s", [times.step]))
                    typical = replace(alone, micro=[statistics.median(alone.micro)])
                    worked = predict(typical, setup, work).step
                    rows.append(row("scaling", case, "work of a process, measured", "CPU s", real.cpu))
                    rows.append(row("scaling", case, "work of a process, predicted", "CPU s", [worked]))
                    rows.append(row("scaling", case, "work, predicted / measured", "x", [worked / statistics.median(real.cpu)]))
                    rows.append(row("scaling", case, "predicted / measured", "x", [ratio], target="0.8 to 1.2"))
    return rows


def predict(alone: timing.Step, setup: Setup, links: Links) -> Times:
    """From steps of one process."""
    optimizer, rest = statistics.median(alone.optimizer), statistics.median(alone.rest)
    return simulate(alone.sizes, setup, links, alone.micro, optimizer=optimizer, rest=rest)


def measured_links(folder: Path, *options: str) -> Links:
    """Collectives between as many processes as are compared."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES), "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "benchmarks.network_links", str(folder / "links.json"), *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return Links.read(folder / "links.json")


def one_process(folder: Path, options: list[str]) -> timing.Step:
    """Steps of as many independent runs, at a time."""
    targets = [folder / f"alone{i}.json" for i in range(PROCESSES)]
    runs = [timing.start(target, words(folder, [*options, "--seed", str(1 + i)]), 1, PROCESSES) for i, target in enumerate(targets)]
    return timing.joined([timing.finish(run, target) for run, target in zip(runs, targets, strict=True)])


def measured(folder: Path, options: list[str], frequency: int) -> timing.Step:
    """Updates of a real run."""
    target = folder / "real.json"
    target.unlink(missing_ok=True)
    return timing.finish(timing.start(target, words(folder, [*options, "--update-freq", str(frequency)]), PROCESSES, PROCESSES), target)


def words(folder: Path, options: list[str]) -> list[str]:
    """fairseq-train's."""
    result = [*(str(folder / "store"), "--user-dir", str(ROOT / "moleblend_fs"), "--save-dir", str(folder / "save"), "--no-save")]
    result += ["--disable-validation", "--task", "moleblend", "--criterion", "blend_then_predict", "--batch-size", str(BATCH)]
    result += ["--lr", "1e-4", "--lr-scheduler", "fixed", "--max-update", str(UPDATES), "--num-workers", "0", "--clip-norm", "5"]
    return [*result, *options]
