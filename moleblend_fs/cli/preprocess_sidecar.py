"""`moleblend preprocess-sidecar NAME STORE`: numbers for each molecule of a store, for objectives that learn them."""

import argparse
import os
from pathlib import Path

from moleblend_fs.data.sidecar import Sidecar
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.errors import UserError
from moleblend_fs.sources.sidecar import SIDECARS, make_sidecar, merge_sidecar
from moleblend_fs.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compute numbers for each molecule of a store from its SMILES, into STORE/sidecars/NAME. descriptors: RDKit's own list of 2D "
        "descriptors, for --objective descriptors. A run that was stopped goes on where it was when the same command is given again."
    )
    parser.add_argument("name", metavar="NAME", choices=SIDECARS, help=f"what to compute: {', '.join(SIDECARS)}")
    parser.add_argument("store", metavar="STORE", type=Path, help="the store, which gets the sidecar")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes (default %(default)s)")
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the molecules (I from 0); --merge puts them together")
    parser.add_argument("--merge", action="store_true", help="put the parts made with --shard together")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> int:
    if args.workers < 1:
        raise UserError(f"--workers must be at least 1, got {args.workers}")
    if args.merge and args.shard:
        raise UserError("--shard makes a part, --merge puts all parts together: give one of them")
    store = Store(args.store)
    shard = None if args.shard is None else ShardNumber.parse(args.shard)
    if args.merge:
        place = merge_sidecar(store, args.name)
    else:
        place = make_sidecar(store, args.name, workers=args.workers, shard=shard, progress=not args.no_progress)
    if shard is not None:
        print(f"{place}: shard {shard}; with all of them there: moleblend preprocess-sidecar {args.name} {args.store} --merge")
        return 0
    about = Sidecar(store, args.name).manifest
    constant = sum(column.std == 0 for column in about.statistics)
    print(f"{place}: {counted(len(about.columns), 'value')} for {counted(about.molecules, 'molecule')} (rdkit {about.versions['rdkit']})")
    print(f"  missing   {counted(about.missing, 'value')}; {counted(about.without, 'molecule has', 'molecules have')} none")
    print(
        f"  scaled by {about.statistics_of or 'all molecules'}; {counted(constant, 'column is', 'columns are')} constant "
        "there and not learned"
    )
    return 0
