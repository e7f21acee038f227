"""Beside other programs: training ESOL to a score, predictions from SMILES, start-up, memory, size on disk. On as many cores as asked for.

    python -m benchmarks peers [--counts 1 100 100000] [--only NAME ...] [--folder FOLDER]

chemprop, MiniMol (its ONNX model, with a perceptron on its fingerprints) and a random forest on ECFP are installed with pip into
environments of their own, with the versions of chemprop.txt, minimol.txt and forest.txt; ours is the wheel of the committed tree. All
learn the same training molecules, and choose by the same validation molecules where they choose. What is asked for often is asked of
all in turn. The folder keeps environments, models and finished parts: the same command goes on where it was stopped.
"""

import argparse
import os
from pathlib import Path

from benchmarks.harness import ROOT, Row
from benchmarks.peer_environments import FOLDER
from benchmarks.peers.measurement import Measured
from benchmarks.peers.programs import PROGRAMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = Path(os.environ.get("MOLEBLEND_SHARED", ROOT.parent / "shared")) / "data/moleculenet"
    parser.add_argument("--esol", type=Path, default=data / "esol.csv.gz", help="what is learned (default %(default)s)")
    parser.add_argument("--molecules", type=Path, default=data / "lipo.csv.gz", help="of which predictions are timed (default %(default)s)")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 100, 100_000], help="molecules of a call (default %(default)s)")
    parser.add_argument("--cores", type=int, default=1, help="of this machine that a program may use (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="NAME", help=f"of {', '.join(PROGRAMS)}")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of environments and finished parts (default %(default)s)")


def main(args: argparse.Namespace) -> list[Row]:
    measured = Measured(
        args.folder, args.esol, args.molecules, args.cores, {name: program for name, program in PROGRAMS.items() if name in args.only}
    )
    rows = [row for name in measured.programs for row in measured.installed(name)]
    rows += [row for name in measured.programs for row in measured.learned(name)]
    rows += measured.compared()
    rows += [row for name in measured.programs for row in measured.started(name)]
    for count in args.counts:
        rows += measured.predicted(count)
    return rows
