"""`python -m benchmarks NAME [--device cpu|cuda] [--json FILE]`: run a benchmark, print its rows, append them to results.csv."""

import argparse
import importlib
import json
import pkgutil
import sys
from dataclasses import asdict
from pathlib import Path

import benchmarks
from benchmarks.harness import RESULTS, append_rows, print_rows

HELPERS = (
    "__main__",
    "attention_alternatives",
    "compare",
    "computed_tables",
    "harness",
    "measure",
    "network_links",
    "op_costs",
    "padded_model",
    "simulate",
    "sizes",
    "timing",
    "traffic",
)
"""Modules that are no benchmarks."""


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark."""
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in HELPERS)
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default %(default)s)")
    parser.add_argument("--no-save", action="store_true", help=f"do not append to {RESULTS.name}")
    parser.add_argument("--tiny", action="store_true", help="sizes so small that it ends in seconds, kernels and all: does it work?")
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name in names:
        if name in argv:
            module = importlib.import_module(f"benchmarks.{name}")
            # Common options may stand before or after the name.
            command = commands.add_parser(name, description=module.__doc__, argument_default=argparse.SUPPRESS)
            command.add_argument("--json", type=Path, metavar="FILE")
            command.add_argument("--device", choices=("cpu", "cuda"))
            command.add_argument("--no-save", action="store_true")
            command.add_argument("--tiny", action="store_true")
            if hasattr(module, "add_arguments"):
                module.add_arguments(command)
        else:
            commands.add_parser(name)
    args = parser.parse_args(argv)
    rows = importlib.import_module(f"benchmarks.{args.name}").main(args)
    print_rows(rows)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if not (args.no_save or args.tiny):
        append_rows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
