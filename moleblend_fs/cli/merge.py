"""`moleblend merge OUT`: the shards that `moleblend preprocess ... OUT --shard I/N` made become one store."""

import argparse
import os
import time
from pathlib import Path

from moleblend_fs.cli.summary import print_summary
from moleblend_fs.data.store_parts import merge_shards
from moleblend_fs.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Put the shards in OUT.shards together: the store OUT is the same as one made without --shard. Rows, molecules, failures and "
        "hashes must agree, and every shard must be there. Needs neither the source nor rdkit."
    )
    parser.add_argument("output", metavar="OUT", help="the store, as it was given to `moleblend preprocess ... OUT --shard I/N`")
    parser.add_argument("--keep-shards", action="store_true", help="do not delete OUT.shards afterwards")


def run(args: argparse.Namespace) -> int:
    out = Path(args.output)
    if os.path.lexists(out):
        raise UserError(f"{out} exists already; delete it first to merge again")
    begin = time.monotonic()
    manifest = merge_shards(out, keep=args.keep_shards)
    print_summary(manifest, out, time.monotonic() - begin)
    return 0
