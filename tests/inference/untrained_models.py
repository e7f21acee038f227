"""Checkpoints of models that were never trained, for tests of what is done with them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from moleblend_fs.checkpoint.read import Checkpoint, FinetunedFor, made
from moleblend_fs.checkpoint.write import save
from moleblend_fs.model.config import TOKEN, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend


def untrained(
    folder: Path,
    *,
    targets: Sequence[str] = ("y",),
    kind: str = "regression",
    inputs: str = "2d",
    unit: str = "",
    mean: float = 0.0,
    std: float = 1.0,
    width: int = 16,
    readout: str = TOKEN,
    output_scale: float = 1.0,
    change: Callable[[MoleBlend], None] | None = None,
) -> Path:
    """A tiny property model with random weights, larger than at the start of training, so that molecules differ.

    Args:
        width: of its representations, feed-forward part and Gaussians; from 32 on, batches are computed as such (see `Forward`).
        change: is given the model before it is saved, to spoil it.
    """
    torch.manual_seed(0)
    size = len(targets)
    config = ModelConfig(
        layers=2, embed_dim=width, ffn_dim=width, attention_heads=2, gaussians=width if width > 16 else 8, heads=("property",), tasks=size,
        readout=readout, output_scale=output_scale,
    )  # fmt: skip
    model = MoleBlend(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        if change is not None:
            change(model)
    about = FinetunedFor(
        inputs=inputs, targets=tuple(targets), kinds=(kind,) * size, units=(unit,) * size, mean=(mean,) * size, std=(std,) * size
    )
    save(Checkpoint(config=config, weights=model.state_dict(), finetuned=about), folder)
    return folder


def pretrained(folder: Path, heads: tuple[str, ...], spread: float = 0.0) -> Path:
    """A model of the size of `runs.SMALL` with heads of objectives, as it begins, and with so much added at random."""
    torch.manual_seed(0)
    config = ModelConfig(layers=2, embed_dim=16, ffn_dim=16, attention_heads=2, gaussians=8, pair_dim=4, hidden_3d=8, heads=heads)
    model = made(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    save(Checkpoint(config=config, weights=model.state_dict()), folder)
    return folder
