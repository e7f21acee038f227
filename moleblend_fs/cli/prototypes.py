"""`moleblend prototypes CHECKPOINT STORE OUT`: prototypes of molecules, for the second stage of GraphLoG."""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_runner_arguments,
    check_output,
    compare_with_store,
    molecules_of,
    runner,
    say,
)
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import is_stream, resolved
from moleblend_fs.inference.predict import loaders_told
from moleblend_fs.inference.projections import fill
from moleblend_fs.objectives.common.prototypes import PROJECTION, Prototypes, find_prototypes, members
from moleblend_fs.objectives.common.views import POOLINGS
from moleblend_fs.shared_options import seed
from moleblend_fs.wording import counted

NEARLY_ALL = 0.9
"""Share of the molecules over which one prototype is said to have nearly all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Find prototypes of a store's molecules in levels, as GraphLoG does after an epoch without them: the lowest level from molecules' "
        "projected vectors, each higher one from the prototypes below. OUT is a JSON file for --graphlog-prototypes; training goes on with "
        "it from the same checkpoint (--finetune-from-model CHECKPOINT)."
    )
    parser.add_argument("model", metavar="CHECKPOINT", help="checkpoint pretrained with --objective graphlog")
    parser.add_argument("store", metavar="STORE", type=Path, help="store of the molecules")
    parser.add_argument("output", metavar="OUT", type=Path, help="file to write")
    parser.add_argument("--split", default="train", metavar="NAME", help="split that they are found from (default: %(default)s)")
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[50, 50, 50], metavar="K", help="most prototypes of each level, from the lowest one up"
    )
    parser.add_argument("--pooling", choices=POOLINGS, default=POOLINGS[0], help="as in training (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="of first prototypes and orders (default: %(default)s)")
    add_runner_arguments(parser)
    add_comparison_argument(parser)


def run(args: argparse.Namespace) -> int:
    if min(args.levels) < 1:
        raise UserError(f"--levels must be numbers from 1 on, got {' '.join(map(str, args.levels))}")
    checkpoint, store = load(args.model), Store(args.store)
    if PROJECTION not in checkpoint.config.heads:
        raise UserError(f"{args.model}: not pretrained with --objective graphlog: there is no projection whose vectors have prototypes")
    check_output(args.output, args.model, store.path)
    indices = molecules_of(store, args.split)
    compare_with_store(checkpoint, store, args, "embed", inputs="2d")
    how = runner(args)
    folder = resolved(args.output).parent
    beside = folder.is_dir() and not is_stream(args.output)  # rather there: it may be larger than what is left for temporary files
    with tempfile.TemporaryFile(dir=folder if beside else None) as stream, loaders_told():
        vectors = np.memmap(stream, np.float32, "w+", shape=(len(indices), checkpoint.config.embed_dim))
        fill(vectors, how, checkpoint, store, indices, args.pooling)
        levels, parents = find_prototypes(vectors, args.levels, args.seed)
        largest = int(members(vectors, levels[0]).max())
    found = Prototypes(
        levels=tuple(tuple(map(tuple, level.tolist())) for level in levels),
        parents=tuple(tuple(parent.tolist()) for parent in parents),
        pooling=args.pooling,
        molecules=len(indices),
        records_sha256=store.manifest.records_sha256,
        checkpoint=str(args.model),
    )
    found.save(args.output)
    sizes = ", ".join(str(len(level)) for level in levels)
    print(f"{args.output}: {sizes} prototypes, from the lowest level up, of {counted(len(indices), 'molecule')}")
    if args.levels[0] > 1 and largest > NEARLY_ALL * len(indices):
        say(
            args,
            f"{largest:,} of {counted(len(indices), 'molecule')} are nearest to one prototype, and {len(levels[0])} of {args.levels[0]} of "
            "the lowest level are left: the model hardly tells molecules apart, and training with these prototypes would teach it next to "
            "nothing. Train the first stage longer (--max-epoch, --lr), and find them again",
        )
    return 0
