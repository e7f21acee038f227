"""Helpers of gpu_check.sh: compare the loss curves of two training runs; append benchmark rows from files to the table."""

import argparse
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("compare")
    command.add_argument("logs", nargs=2, type=Path)
    command.add_argument("--updates", type=int, required=True)
    command.add_argument("--tolerance", type=float, required=True, help="of every update's loss, as a share of it")
    command.add_argument("--json", type=Path, required=True, help="where the figures and both curves go")
    command = commands.add_parser("collect")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--table", type=Path, help="another table than benchmarks/results.csv")
    args = parser.parse_args(argv)
    if args.command == "collect":
        return collect(args.files, args.table)
    curves = [losses(log) for log in args.logs]
    result = compare(*curves, args.updates)
    args.json.write_text(json.dumps({**result, "curves": curves}, indent=1) + "\n")
    print(", ".join(f"{name} {value:.3g}" for name, value in result.items()), f"(allowed of all: {args.tolerance})")
    return 0 if result["all"] <= args.tolerance else 1


def collect(files: list[Path], table: Path | None) -> int:
    """Rows that were measured where there is no git get this checkout's commit."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.harness import RESULTS, Row, append_rows, commit, print_rows

    rows = [Row(**{**row, "commit": row["commit"] or commit()}) for file in files for row in json.loads(file.read_text())]
    append_rows(rows, table or RESULTS)
    print_rows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
