"""Options that several commands share."""

import argparse

import torch

from moleblend_fs.errors import UserError
from moleblend_fs.inference.predict import Runner


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and how a model runs."""
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--max-tokens", type=int, default=16_384, help="most tokens in a batch (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")


def runner(arguments: argparse.Namespace) -> Runner:
    """The runner that the options ask for."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU is visible to torch; use --device cpu")
    return Runner(device=device, tokens=arguments.max_tokens, workers=arguments.workers)
