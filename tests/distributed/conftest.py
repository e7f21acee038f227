"""A store with uneven batches, and fairseq-train on several ranks."""

import importlib.util

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.checkpoint.write import save
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import HEADS
from moleblend_fs.model.moleblend import MoleBlend
from tests.fairseq_plugins.conftest import write_store
from tests.model.molecules import AWKWARD, ORDINARY

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    """47 molecules of training: at 5 a batch nine whole batches and one of two."""
    generator = np.random.default_rng(0)
    smiles = [*ORDINARY, *AWKWARD, "CCN", "CC", "CCCl", "c1ccncc1", "OCCO", "CC#N"]
    train = [(smiles[k], i % 4 != 1, "train") for i, k in enumerate(generator.integers(0, len(smiles), 47))]
    valid = [(s, i % 3 != 1, "valid") for i, s in enumerate(smiles[:11])]
    return write_store(tmp_path_factory.mktemp("stores") / "distributed", [*train, *valid])


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> tuple[str, str]:
    """Options that begin from weights whose pair heads are far from 0: near it their normalisation blows roundings up."""
    size = {"layers": 2, "embed_dim": 16, "ffn_dim": 16, "attention_heads": 2, "gaussians": 8, "pair_dim": 4, "hidden_3d": 8}
    config = ModelConfig(**size, heads=HEADS)
    torch.manual_seed(3)
    model = MoleBlend(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("heads.") and "norm" not in name and parameter.ndim > 1:
                parameter.mul_(15)
    path = tmp_path_factory.mktemp("start") / "model"
    save(Checkpoint(config=config, weights=model.state_dict()), path)
    return "--finetune-from-model", str(path)
