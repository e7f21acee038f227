"""Comparing the loss curves of two training runs, for gpu_chunks.py."""

import json
import re
import sys
from pathlib import Path

LINE = re.compile(r"\| train_inner \| (\{.*\})\s*$")


def losses(log: Path) -> list[float]:
    """The logged loss of each update."""
    found = (LINE.search(line) for line in log.read_text().splitlines())
    return [float(json.loads(match.group(1))["loss"]) for match in found if match]


def compare(first: list[float], second: list[float], updates: int) -> dict[str, float]:
    """How far apart two curves are, as shares of the second: over the first ten updates, over all, and their means over the last quarter.

    Raises:
        SystemExit: a run is not complete, or learned nothing.
    """
    for name, curve in (("first", first), ("second", second)):
        if len(curve) != updates:
            sys.exit(f"the {name} run logged {len(curve)} of {updates} updates")
        if not all(loss > 0 for loss in curve):
            sys.exit(f"the {name} run's losses are not all positive numbers")
    apart = [abs(a - b) / b for a, b in zip(first, second, strict=True)]
    quarter = max(updates // 4, 1)
    means = [sum(curve[-quarter:]) / quarter for curve in (first, second)]
    return {
        "first_ten": max(apart[:10]),
        "all": max(apart),
        "last_quarter": abs(means[0] - means[1]) / means[1],
        "loss_begin": second[0],
        "loss_end": means[1],
    }


def compare_logs(logs: list[Path], updates: int, tolerance: float, path: Path) -> int:
    """Compare two runs; the figures and both curves are written. 0 if every update's loss agrees within that share of it."""
    curves = [losses(log) for log in logs]
    result = compare(curves[0], curves[1], updates)
    path.write_text(json.dumps({**result, "curves": curves}, indent=1) + "\n")
    print(", ".join(f"{name} {value:.3g}" for name, value in result.items()), f"(allowed of all: {tolerance})")
    return 0 if result["all"] <= tolerance else 1
