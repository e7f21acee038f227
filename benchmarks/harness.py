"""What all benchmarks share: rows with their circumstances, quantiles, the committed table."""

import csv
import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.csv"
PACKAGES = ("torch", "numpy", "triton", "rdkit", "lmdb", "onnxruntime")


def busy_seconds() -> tuple[float, float]:
    """Seconds that the machine's cores have worked, and of these for this process and the children that it has waited for."""
    if not Path("/proc/stat").exists():
        return 0.0, 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


BEGUN = (time.perf_counter(), *busy_seconds())
"""When this process began to measure, and what had been done by then."""


def others() -> float:
    """Cores that other programs kept busy since `BEGUN`, on average, as far as the counters of Linux tell."""
    machine, mine = busy_seconds()
    return round(max(0.0, (machine - BEGUN[1]) - (mine - BEGUN[2])) / (time.perf_counter() - BEGUN[0]), 2)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured figure.

    Attributes:
        benchmark, case: what was measured, on what.
        metric, unit: name and unit of the value.
        p20, p50, p80: quantiles over the repeats.
        repeats: how many.
        target: what the value should reach, "" where nothing is asked.
        device, versions, commit, date: the circumstances.
        others: cores that other programs kept busy meanwhile, on average; None where that was not noted.
    """

    benchmark: str
    case: str
    metric: str
    unit: str
    p20: float
    p50: float
    p80: float
    repeats: int
    target: str
    device: str
    versions: str
    commit: str
    date: str
    others: float | None = None


def row(benchmark: str, case: str, metric: str, unit: str, values: Sequence[float], *, target: str = "", device: str = "cpu") -> Row:
    """A row from repeated measurements: quantiles of four digits, bytes as they are."""
    digits = ".15g" if unit == "bytes" else ".4g"
    p20, p50, p80 = (float(f"{q:{digits}}") for q in np.quantile(np.asarray(values, dtype=np.float64), [0.2, 0.5, 0.8]))
    return Row(
        benchmark=benchmark,
        case=case,
        metric=metric,
        unit=unit,
        p20=p20,
        p50=p50,
        p80=p80,
        repeats=len(values),
        target=target,
        device=device_name(device),
        versions=versions(),
        commit=commit(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        others=others(),
    )


def timed(function: Callable[[], object], repeats: int, *, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of each of several calls, after some that do not count.

    With `clock=time.process_time` they are CPU seconds, which other work on the machine disturbs less.
    """
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        begin = clock()
        function()
        seconds.append(clock() - begin)
    return seconds


def device_name(device: str) -> str:
    """Name of the processor that did the work, with its number of cores."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def versions() -> str:
    """Versions of Python and of the packages that matter."""
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def commit() -> str:
    """Short hash of the commit, with a + where tracked files differ from it; "" outside of a git checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py", "*.c"], cwd=ROOT, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def print_rows(rows: Sequence[Row]) -> None:
    """A table on stdout."""
    if not rows:
        return
    print(f"{rows[0].date}  {rows[0].device}  {rows[0].commit}\n{rows[0].versions}\n")
    head = ("case", "metric", "p20", "p50", "p80", "unit", "target")
    body = [(r.case, r.metric, f"{r.p20:,.6g}", f"{r.p50:,.6g}", f"{r.p80:,.6g}", r.unit, r.target) for r in rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    for line in [head, *body]:
        print(
            "  ".join(
                cell.rjust(w) if i in (2, 3, 4) else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
        )


def append_rows(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Add rows to the committed table."""
    new = not path.exists()
    with open(path, "a", newline="") as stream:
        table = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            table.writeheader()
        table.writerows(asdict(r) for r in rows)
