"""`moleblend tokenize CHECKPOINT STORE`: codes of a store's atoms, for the second stage of Mole-BERT."""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from moleblend_fs.checkpoint.read import identity, load
from moleblend_fs.cli.common import add_comparison_argument, compare_with_store, say
from moleblend_fs.data.sidecar import CODES, Entry, Sidecar
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.errors import UserError
from moleblend_fs.inference.codes import codes_of
from moleblend_fs.inference.device import device_of
from moleblend_fs.inference.predict import check_weights
from moleblend_fs.objectives.common.codebook import CODEBOOK, code_names, sizes_of
from moleblend_fs.sources.code_sidecar import Codes
from moleblend_fs.sources.sidecar import make_sidecar, merge_sidecar
from moleblend_fs.wording import counted

NEARLY_ALL = 0.95
"""Share of a group's atoms that one code must not have, where the group has so many atoms:"""
MANY = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the code of each atom of a store, by a tokenizer's codebook, into STORE/sidecars/codes, for --objective mole_bert. A run "
        "that was stopped goes on where it was when the same command is given again."
    )
    parser.add_argument("model", metavar="CHECKPOINT", help="checkpoint pretrained with --objective mole_bert_tokenizer")
    parser.add_argument("store", metavar="STORE", type=Path, help="the store, which gets the sidecar")
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--max-tokens", type=int, default=16_384, help="most tokens in a batch (default: %(default)s)")
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the molecules (I from 0); --merge puts them together")
    parser.add_argument("--merge", action="store_true", help="put the parts made with --shard together")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    add_comparison_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.max_tokens < 1:
        raise UserError(f"--max-tokens must be at least 1, got {args.max_tokens}")
    if args.merge and args.shard:
        raise UserError("--shard makes a part, --merge puts all parts together: give one of them")
    checkpoint, store = load(args.model), Store(args.store)
    if CODEBOOK not in checkpoint.config.heads:
        raise UserError(f"{args.model}: not pretrained with --objective mole_bert_tokenizer: there is no codebook")
    check_weights(checkpoint)
    compare_with_store(checkpoint, store, args, "embed", inputs="2d")
    computed = functools.partial(codes_of, checkpoint, device_of(args.device), args.max_tokens)
    kind = Codes(code_names(sizes_of(checkpoint.config)), identity(checkpoint), computed)
    shard = None if args.shard is None else ShardNumber.parse(args.shard)
    progress = not args.no_progress
    place = merge_sidecar(store, kind) if args.merge else make_sidecar(store, kind, workers=0, shard=shard, progress=progress)
    if shard is not None:
        print(f"{place}: shard {shard}; with all of them there: moleblend tokenize {args.model} {args.store} --merge")
        return 0
    about = Sidecar(store, CODES).manifest
    used = about.vocabularies[CODES]
    print(f"{place}: codes of the atoms of {counted(about.molecules, 'molecule')}: {len(used):,} of {len(about.columns):,} are used")
    for line in crowded(used):
        say(args, line)
    return 0


def crowded(used: Sequence[Entry]) -> list[str]:
    """What is to be said of groups whose atoms nearly all have one code.

    Args:
        used: codes that atoms have, named by group and number.
    """
    groups: dict[str, list[int]] = {}
    for entry in used:
        groups.setdefault(entry.name.split()[0], []).append(entry.count)
    return [
        f"{max(counts):,} of {sum(counts):,} atoms of group {group} have one code, which tells nothing about them: train the tokenizer "
        "longer, or with --tokenizer-code-dropout 0.9; then delete the sidecar and run this again"
        for group, counts in groups.items()
        if max(counts) > NEARLY_ALL * sum(counts) and sum(counts) >= MANY
    ]
