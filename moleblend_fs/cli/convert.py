"""`moleblend convert`: any checkpoint -> a folder of safetensors weights and JSON config; with --half, weights to be published."""

import argparse
import dataclasses
import os
import shlex
from pathlib import Path

from moleblend_fs.checkpoint.publish import LICENCE, published
from moleblend_fs.checkpoint.read import Checkpoint, hidden_of_molecules, load
from moleblend_fs.checkpoint.weights_by_name import CONFIG, WEIGHTS
from moleblend_fs.checkpoint.write import save
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved

LARGEST = 12_000_000
"""Bytes of weights that may come with the package."""
EPILOG = """examples:
  moleblend convert published.pt runs/published                              # the reference release's weights
  moleblend convert runs/pretrain/checkpoint_best.pt my_weights/mine --half --note "validation loss 0.33"
  MOLEBLEND_WEIGHTS=my_weights moleblend finetune mine.csv --target logS --weights mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write a checkpoint as a folder of safetensors weights and a JSON description.\n"
        "With --half, as published weights: in 16 bits, without the heads of pretraining but for the hidden layer of one that read\n"
        "whole molecules, with a card (moleblend inspect OUT) that is made from the checkpoint and the stores that it was trained on.\n"
        "The folder's name is what --weights calls them by, where it lies in a folder that MOLEBLEND_WEIGHTS names."
    )
    parser.epilog = EPILOG
    parser.add_argument("checkpoint", help="checkpoint of the reference release (.pt), or of fairseq-train with our plugins")
    parser.add_argument("output", type=Path, help="folder to write; must not exist")
    card = parser.add_argument_group("published weights")
    card.add_argument(
        "--half", action="store_true", help="16 bits, the encoder and a hidden layer, with a card; for checkpoints of pretraining"
    )
    card.add_argument("--data", default="", metavar="A:B", help="stores that it was trained on (default: where training found them)")
    card.add_argument("--licence", default=LICENCE, help="of the weights (default: %(default)s)")
    card.add_argument("--limit", action="append", default=[], metavar="TEXT", help="what they are not for; may be given several times")
    card.add_argument("--note", action="append", default=[], metavar="TEXT", help="figures and the like; may be given several times")


def run(arguments: argparse.Namespace) -> int:
    """Read, write, and say what was and was not understood."""
    if os.path.lexists(arguments.output):
        raise UserError(f"{arguments.output} exists already; choose another folder, or delete it first")
    if arguments.half:
        checkpoint = published(
            arguments.checkpoint, data=arguments.data, licence=arguments.licence, limits=arguments.limit, notes=arguments.note
        )
    elif arguments.data or arguments.limit or arguments.note or arguments.licence != LICENCE:
        raise UserError("--data, --licence, --limit and --note are for the card of published weights: give --half too, or leave them out")
    else:
        checkpoint = load(arguments.checkpoint)
        if checkpoint.card is not None:
            checkpoint.card = dataclasses.replace(checkpoint.card, precision="float32")
    not_understood = checkpoint.about.pop("not_understood", [])
    save(checkpoint, arguments.output)
    show(arguments, checkpoint)
    for name in not_understood:
        print(f"  not understood, left out: {name}")
    return 0


def show(arguments: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """What was written."""
    config, card = checkpoint.config, checkpoint.card
    print(f"{arguments.checkpoint} ({checkpoint.about.get('format', 'folder')}) -> {arguments.output}/{WEIGHTS}, {CONFIG}")
    print(f"  {config.layers} layers, width {config.embed_dim}, {config.attention_heads} attention heads, {config.gaussians} Gaussians")
    numbers = sum(weights.numel() for weights in checkpoint.weights.values())
    if card is None:
        print(f"  heads: {', '.join(config.heads) or 'none'}; {numbers:,} numbers")
        return
    kept = ", but for a hidden layer" if hidden_of_molecules(checkpoint)[0] else ""
    size = sum((arguments.output / name).stat().st_size for name in (WEIGHTS, CONFIG))
    print(f"  {numbers:,} numbers in {card.precision}, {size / 1e6:.2f} MB; left out: heads {', '.join(card.dropped) or 'none'}{kept}")
    if size > LARGEST:
        print(f"  more than the {LARGEST / 1e6:g} MB that may come with the package; a folder of MOLEBLEND_WEIGHTS takes any")
    place = resolved(arguments.output)
    folder, name = shlex.quote(str(place.parent)), shlex.quote(place.name)
    print(f"  MOLEBLEND_WEIGHTS={folder} moleblend finetune DATA --weights {name} starts from it")
