"""A vector made from another one through a latent variable (GraphMVP's variational representation reconstruction).

From x a normal distribution with mean mu and variance e^logvar, both linear maps of x; y' = decoder(mu + e^(logvar / 2) eps).
Shape legend: B molecules, N vectors, d embedding width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.encoder import LayerNorm
from moleblend_fs.objectives.common.contrastive import similarity
from moleblend_fs.objectives.common.hashed_draws import LATENT_ANGLE, LATENT_RADIUS, normal
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32

ERRORS = ("l2", "l1", "cosine")


class Reconstruction(nn.Module):
    """From one view's vector to the other's: Linear maps to mu and logvar, then Linear, LayerNorm, ReLU, Linear."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d = config.embed_dim
        self.mu, self.logvar = Linear(d, d), Linear(d, d)
        self.hidden, self.decoder_norm, self.out = Linear(d, d), LayerNorm(d), Linear(d, d)

    def forward(self, x_Nd: Tensor, noise_Nd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The other vector (N, d), and mu and logvar of what it was decoded from."""
        mu, logvar = at_least_float32(self.mu(x_Nd)), at_least_float32(self.logvar(x_Nd))
        latent = mu + (logvar / 2).exp() * noise_Nd
        return self.out(F.relu(self.decoder_norm(self.hidden(latent.to(x_Nd.dtype))))), mu, logvar


class BothWays(nn.Module):
    """A module for what starts from the 2D view, and one for what starts from structures."""

    def __init__(self, config: ModelConfig, build: Callable[[ModelConfig], nn.Module]):
        super().__init__()
        self.flat, self.structure = build(config), build(config)


def latent_noise(batch: MoleculeBatch, width: int, stream: int, draw: tuple[int, int]) -> Tensor:
    """(B, d) float64 standard normal numbers, by (seed, epoch, molecule, number of the stream, dimension)."""
    device = batch.molecule_id.device
    place = torch.arange(width, device=device) + stream * 65_536
    molecule = batch.molecule_id.repeat_interleave(width)
    return normal(LATENT_RADIUS, LATENT_ANGLE, *draw, molecule, place.repeat(len(batch))).view(len(batch), width)


def error_of(made_Bd: Tensor, target_Bd: Tensor, error: str) -> Tensor:
    """(B,) one of `ERRORS`."""
    if error == "cosine":
        return 1 - similarity(made_Bd, target_Bd, 1.0)
    difference = made_Bd - target_Bd
    return (difference.square() if error == "l2" else difference.abs()).mean(dim=1)


def divergence(mu_Bd: Tensor, logvar_Bd: Tensor) -> Tensor:
    """(B,) KL divergence of normal distributions from the standard one, nats."""
    return -0.5 * (1 + logvar_Bd - mu_Bd.square() - logvar_Bd.exp()).sum(dim=1)
