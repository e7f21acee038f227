"""`moleblend preprocess SOURCE IN OUT`: real formats in, a store out."""

import argparse
import os
import time
from pathlib import Path

from moleblend_fs.cli.summary import print_summary
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.errors import UserError
from moleblend_fs.shared_options import seed
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.excluded_skeletons import skeletons_of
from moleblend_fs.sources.registry import source_commands
from moleblend_fs.sources.run import preprocess, preprocess_shard
from moleblend_fs.sources.subsets import Excluding, Sampled, SampleSize
from moleblend_fs.sources.workers import ROW_TIMEOUT
from moleblend_fs.wording import counted

RESUME = "A run that was stopped goes on where it was when the same command is given again."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read molecules, compute their features and pair features once, and write a store for training. "
        f"Rows that give no molecule are listed with the reason in OUT/failures.csv. {RESUME}"
    )
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, command in source_commands().items():
        described = f"{command.summary[0].upper()}{command.summary[1:]}. {RESUME}"
        source = sources.add_parser(name, help=command.summary, description=described)
        _add_common(source, command.where)
        command.add_arguments(source)
        source.set_defaults(open=command.open)


def run(args: argparse.Namespace) -> int:
    if args.workers < 1:
        raise UserError(f"--workers must be at least 1, got {args.workers}")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, got {args.limit}")
    if os.path.lexists(args.output):
        raise UserError(f"{args.output} exists already; choose another OUT, or delete it first")
    shard = None if args.shard is None else ShardNumber.parse(args.shard)
    if not args.row_timeout > 0:
        raise UserError(f"--row-timeout must be above 0 seconds, got {args.row_timeout}")
    source = _part_of(args.open(args), args)
    for note in source.notes:
        print(f"note: {note}", flush=True)
    begin = time.monotonic()
    how = {"workers": args.workers, "limit": args.limit, "row_timeout": args.row_timeout, "progress": not args.no_progress}
    if shard is not None:
        info = preprocess_shard(source, args.output, shard, **how)
        print(
            f"{shard.path(args.output)}: shard {shard} with {counted(info.molecules, 'molecule')} and "
            f"{counted(info.failures, 'failure')} from "
            f"{info.rows:,} of {counted(info.source_rows, 'row')} in {time.monotonic() - begin:.1f} s; with all shards there: "
            f"moleblend merge {args.output}"
        )
        return 0
    manifest = preprocess(source, args.output, **how)
    print_summary(manifest, Path(args.output), time.monotonic() - begin)
    return 0


def _part_of(source: Source, args: argparse.Namespace) -> Source:
    """What --exclude and --sample leave of a source."""
    notes = source.notes
    if args.exclude:
        skeletons, more = skeletons_of(args.exclude)
        source, notes = Excluding(source, skeletons), (*notes, *more)
    if args.sample is not None:
        source = Sampled(source, SampleSize.parse(args.sample), args.sample_seed)
    source.notes = notes
    return source


def _add_common(parser: argparse.ArgumentParser, where: str) -> None:
    parser.add_argument("input", metavar="IN", help=where)
    parser.add_argument("output", metavar="OUT", help="folder of the new store; must not exist")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="processes; the store is the same for any number (default %(default)s)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows, for trials")
    parser.add_argument(
        "--sample",
        metavar="N|SHARE",
        help="only N of the rows, or a share of them (0.1), drawn by a hash of seed and row: smaller samples are parts of larger ones",
    )
    parser.add_argument("--sample-seed", type=seed, default=0, metavar="SEED", help="seed of --sample (default 0)")
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE_OR_STORE",
        help="leave out molecules whose InChIKey skeleton (first block) is in one of these stores, tables, lists of SMILES or SD files; "
        "they are counted, and listed in failures.csv",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only the I-th of N parts (I from 0), into OUT.shards/; when all N are there, `moleblend merge OUT` makes the store",
    )
    parser.add_argument(
        "--row-timeout",
        type=float,
        default=ROW_TIMEOUT,
        metavar="SECONDS",
        help="time limit for a row, besides that for its conformers; one that takes longer is listed in failures.csv (default %(default)g)",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
