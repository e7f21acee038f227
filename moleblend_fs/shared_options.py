"""Options that several commands have, and their values checked as they are read: the precision of models, seeds, how a head begins."""

import argparse
from typing import Literal, get_args

from moleblend_fs.errors import UserError

Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""In what models multiply when they predict: bf16 is for large matrix products alone."""

MOST_SEED = 2**32 - 1_000_001
"""Of training: numpy's generators, which fairseq seeds with this and an epoch, take 32 bits."""

RANDOM, RIDGE = HEAD_STARTS = ("random", "ridge")
"""Where the property head's last layer begins on pretrained weights."""


def add_precision(parser: argparse._ActionsContainer) -> None:
    """The option of all commands that run a model."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="bf16: large matrix products in bfloat16, faster on processors with avx512_bf16 or AMX; predictions change in their third "
        "digit (default: %(default)s)",
    )


def check_precision(value: str) -> str:
    """A precision that there is; UserError otherwise."""
    if value not in PRECISIONS:
        raise UserError(f"precision must be {' or '.join(map(repr, PRECISIONS))}, got {value!r}")
    return value


def seed(text: str) -> int:
    """A seed from the command line: a whole number from 0 on, less than 2**63."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on, got {text!r}")
    return value
