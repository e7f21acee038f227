"""`moleblend check-golden`: our model on files of reference outputs."""

import argparse

import torch

from moleblend_fs.inference.golden import GoldenFile
from moleblend_fs.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE.npz", help="golden files: config, weights, inputs, outputs, losses, gradient norms"
    )
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest relative error that passes (default: %(default)s)")
    parser.add_argument("--float64", action="store_true", help="compute in float64")


def run(arguments: argparse.Namespace) -> int:
    """Print the largest relative error of every value; 1 if any is over the tolerance."""
    failed = 0
    for path in arguments.files:
        golden = GoldenFile(path, torch.float64 if arguments.float64 else torch.float32)
        print(f"{path}: {counted(len(golden.molecules), 'molecule')}, {golden.config['mode']}")
        checked = 0
        for name, error in golden.compare():
            wrong = not error <= arguments.tolerance
            failed += wrong
            checked += 1
            print(f"  {error:9.2e}  {'FAIL' if wrong else 'ok  '}  {name}")
        print(f"  {counted(checked, 'value')} compared")
    print(f"{failed} over {arguments.tolerance:g}" if failed else f"all within {arguments.tolerance:g}")
    return 1 if failed else 0
