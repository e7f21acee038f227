"""`moleblend preprocess-sidecar NAME STORE`: what is computed of a store's molecules, for objectives that learn it."""

import argparse
import os
from pathlib import Path

from moleblend_fs.data.sidecar import FAILURES, FLAGS, LISTS, NUMBERS, VOCABULARIES, Sidecar
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.errors import UserError
from moleblend_fs.sources.sidecar import make_sidecar, merge_sidecar
from moleblend_fs.sources.sidecar_kinds import kinds
from moleblend_fs.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = list(kinds())
    parser.description = (
        "Compute something of each molecule of a store, into STORE/sidecars/NAME. descriptors: RDKit's own list of 2D descriptors, for "
        "--objective descriptors. fragments: which of RDKit's fragments (functional groups and the like) it has; contexts: vocabularies of "
        "what is around atoms and bonds, counted over the store: both for --objective grover. automorphisms: orders of its atoms that "
        "change nothing, for --objective unified_mol. motifs: the parts that BRICS cuts it into and their tree, for --objective mgssl and "
        "motif_mask. Molecules that it cannot be computed of are "
        "listed, with the reason, in STORE/sidecars/NAME/failures.csv. A run that was stopped goes on where it was when the same command "
        "is given again."
    )
    parser.add_argument("name", metavar="NAME", choices=names, help=f"what to compute: {', '.join(names)}")
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
    store, kind = Store(args.store), kinds()[args.name]
    shard = None if args.shard is None else ShardNumber.parse(args.shard)
    if args.merge:
        place = merge_sidecar(store, kind)
    else:
        place = make_sidecar(store, kind, workers=args.workers, shard=shard, progress=not args.no_progress)
    if shard is not None:
        print(f"{place}: shard {shard}; with all of them there: moleblend preprocess-sidecar {args.name} {args.store} --merge")
        return 0
    about = Sidecar(store, args.name).manifest
    molecules, rdkit = counted(about.molecules, "molecule"), f"(rdkit {about.versions['rdkit']})"
    if about.kind in (VOCABULARIES, LISTS):
        sizes = ", ".join(f"{len(entries):,} of {name}" for name, entries in about.vocabularies.items())
        print(f"{place}: {args.name} of {molecules}: {sizes} {rdkit}")
    else:
        print(f"{place}: {counted(len(about.columns), 'flag' if about.kind == FLAGS else 'value')} for {molecules} {rdkit}")
        print(f"  missing   {counted(about.missing, 'value')}; {counted(about.without, 'molecule has', 'molecules have')} none")
    if about.kind == NUMBERS:
        constant = counted(sum(column.std == 0 for column in about.statistics), "column is", "columns are")
        print(f"  scaled by {about.statistics_of or 'all molecules'}; {constant} constant there and not learned")
    if about.failures:
        print(f"  failed    {counted(about.failures, 'molecule')}, see {place / FAILURES}")
    return 0
