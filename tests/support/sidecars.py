"""Sidecars of a store, whatever makes them."""

from pathlib import Path

import torch

from moleblend_fs.checkpoint.read import Checkpoint, made
from moleblend_fs.checkpoint.write import save
from moleblend_fs.cli.main import main
from moleblend_fs.data.sidecar import CODES
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.objectives.registry import objectives


def tokenizer(folder: Path, spread: float = 0.0, **options: object) -> Path:
    """A checkpoint of a small tokenizer as it begins, with so much added at random."""
    found = objectives()["mole_bert_tokenizer"]
    objective = found(found.Options(**options))
    size = {"layers": 2, "embed_dim": 16, "ffn_dim": 16, "attention_heads": 2, "gaussians": 8, "pair_dim": 4, "hidden_3d": 8}
    config = ModelConfig(**size, heads=objective.heads(), **objective.config_fields())
    torch.manual_seed(0)
    weights = made(config).state_dict()
    weights = {name: value + spread * torch.randn_like(value) for name, value in weights.items()}
    save(Checkpoint(config=config, weights=weights), folder)
    return folder


def make_sidecars(store: Store, names: tuple[str, ...], folder: Path) -> None:
    """Those that it has not.

    Args:
        folder: for what makes them.
    """
    for name in names:
        if (store.path / "sidecars" / name).exists():
            continue
        if name == CODES:
            words = ["tokenize", str(tokenizer(folder / "tokenizer")), str(store.path)]
        else:
            words = ["preprocess-sidecar", name, str(store.path), "--workers", "1"]
        assert main([*words, "--no-progress"]) == 0
