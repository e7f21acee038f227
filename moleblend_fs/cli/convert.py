"""`moleblend convert`: any checkpoint -> a folder of safetensors weights and JSON config."""

import argparse
import os
from pathlib import Path

from moleblend_fs.checkpoint.read import CONFIG, WEIGHTS, load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("checkpoint", help="checkpoint of the reference release (.pt), or of fairseq-train with our plugins")
    parser.add_argument("output", type=Path, help="folder to write; must not exist")


def run(arguments: argparse.Namespace) -> int:
    """Read, write, and say what was and was not understood."""
    if os.path.lexists(arguments.output):
        raise UserError(f"{arguments.output} exists already; choose another folder, or delete it first")
    checkpoint = load(arguments.checkpoint)
    not_understood = checkpoint.about.pop("not_understood", [])
    save(checkpoint, arguments.output)
    config = checkpoint.config
    print(f"{arguments.checkpoint} ({checkpoint.about.get('format', 'folder')}) -> {arguments.output}/{WEIGHTS}, {CONFIG}")
    print(f"  {config.layers} layers, width {config.embed_dim}, {config.attention_heads} attention heads, {config.gaussians} Gaussians")
    print(f"  heads: {', '.join(config.heads) or 'none'}; {sum(w.numel() for w in checkpoint.weights.values()):,} numbers")
    for name in not_understood:
        print(f"  not understood, left out: {name}")
    return 0
