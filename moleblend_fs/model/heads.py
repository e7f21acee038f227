"""Prediction heads: called without a target they give predictions, with one the sum of their losses.

The losses are computed here, and not from the predictions, because those of all pairs are large and needed nowhere else.
Shape legend: A atoms, P ordered pairs, B molecules, m pair width, C classes, d embedding width.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.encoder import LayerNorm
from moleblend_fs.model.multi_hot import by_product
from moleblend_fs.model.target_classes import EDGE_CLASSES, SPD_CLASSES
from moleblend_fs.ops.atom_forces import atom_forces
from moleblend_fs.ops.constants import identity
from moleblend_fs.ops.cosine_loss import cosine_loss
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear, linear, linears, products_in
from moleblend_fs.ops.pair_projection import pair_cosine, pair_cross_entropy, pair_projection, pair_smooth_l1
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.ops.residual_norm import residual_norm


class PairHead(nn.Module):
    """Outer-product projection (paper, Eq. 10-11): l = LN(GELU(W_l x)), r = LN(GELU(W_r x)), z_ij = W vec(l_i r_j^T) + b.

    Its loss is the cross-entropy of the classes, from targets (P, K) int8.
    """

    reads = "atoms"
    loss_sum: Callable[..., Tensor] = staticmethod(pair_cross_entropy)

    def __init__(self, config: ModelConfig, outputs: int):
        super().__init__()
        self.pair_dim = config.pair_dim
        self.left = Linear(config.embed_dim, config.pair_dim)
        self.left_norm = LayerNorm(config.pair_dim, eps=1e-12)
        self.right = Linear(config.embed_dim, config.pair_dim)
        self.right_norm = LayerNorm(config.pair_dim, eps=1e-12)
        self.out = Linear(config.pair_dim**2, outputs)

    def layers(self) -> tuple[Linear, ...]:
        """Those that read the atoms."""
        return self.left, self.right

    def sides(self, x_Ad: Tensor | list[Tensor], layout: Layout) -> tuple[Tensor, Tensor]:
        """l and r of every atom, (A, m) each."""
        left, right = linears(x_Ad, self.layers())
        return residual_norm(F.gelu(left), None, self.left_norm, layout), residual_norm(F.gelu(right), None, self.right_norm, layout)

    def form(self) -> tuple[Tensor, Tensor]:
        """The bilinear form: weight (C, m, m) and bias (C,)."""
        return self.out.weight.view(-1, self.pair_dim, self.pair_dim), self.out.bias

    def forward(self, x_Ad: Tensor | list[Tensor], layout: Layout, target: tuple[Tensor, ...] | None = None) -> Tensor:
        """z of every pair, (P, C), or the sum of the losses on it, from the atoms or what `layers` made of them."""
        if target is None:
            return pair_projection(*self.sides(x_Ad, layout), *self.form(), layout)
        return self.loss_sum(*self.sides(x_Ad, layout), *self.form(), *target, layout)


class GeometryHead(PairHead):
    """Linear(m^2 -> hidden), then Linear(hidden -> outputs), in sequence without activation.

    The two maps are one bilinear form, so they are multiplied before they meet any pair.
    Loss of three outputs: 1 - cos(prediction, r_j - r_i); of one: Smooth-L1 of |r_i - r_j|; both times the pair's weight.
    """

    def __init__(self, config: ModelConfig, outputs: int):
        super().__init__(config, config.hidden_3d)
        self.axes = Linear(config.hidden_3d, outputs)
        self.loss_sum = pair_cosine if outputs == 3 else pair_smooth_l1

    def form(self) -> tuple[Tensor, Tensor]:
        weight, bias = super().form()
        return torch.tensordot(self.axes.weight, weight, dims=1), self.axes.weight @ bias + self.axes.bias


class NoiseHead(nn.Module):
    """Predicts the noise on each atom: attention over atoms, weighted by unit displacements, one linear map per axis."""

    reads = "structure"

    def __init__(self, config: ModelConfig):
        super().__init__()
        d = config.embed_dim
        self.heads = config.attention_heads
        self.dropout = config.attention_dropout
        self.query, self.key, self.value = Linear(d, d), Linear(d, d), Linear(d, d)
        self.axes = Linear(d, 3)

    def layers(self) -> tuple[Linear, ...]:
        """Those that read the atoms."""
        return self.query, self.key, self.value

    def forward(
        self,
        x_Ad: Tensor | list[Tensor],
        bias_PH: Tensor,
        coordinates_A3: Tensor,
        layout: Layout,
        target: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Predicted noise, (A, 3), in units of the noise scale, or the sum over the noisy atoms of 1 - cos(prediction, noise).

        Args:
            x_Ad: the atoms, or what `layers` made of them.
        """
        prediction = self._predict(x_Ad, bias_PH, coordinates_A3, layout)
        return prediction if target is None else cosine_loss(at_least_float32(prediction), *target)

    def _predict(self, x_Ad: Tensor | list[Tensor], bias_PH: Tensor, coordinates_A3: Tensor, layout: Layout) -> Tensor:
        width = self.query.out_features // self.heads
        query, key, value = (out.unflatten(1, (self.heads, width)) for out in linears(x_Ad, self.layers()))
        query = query * width**-0.5
        # The output map is linear in the values: apply it to them first, so that no (n, n, d) tensor is needed.
        projected = self._project(value, self.axes.weight.view(3, self.heads, width))
        dropout = self.dropout if self.training else 0.0
        return atom_forces(query, key, projected, bias_PH, coordinates_A3, layout, dropout) + self.axes.bias

    def _project(self, value_AHw: Tensor, axes_3Hw: Tensor) -> Tensor:
        """(A, H, 3) each head's values times its part of the axes. One product with zeros between the heads where that is quicker: on GPUs,
        whose products of three columns are slow."""
        if not by_product(value_AHw):
            return torch.einsum("nhw,ahw->nha", value_AHw, axes_3Hw)
        heads = identity(self.heads, axes_3Hw.dtype, axes_3Hw.device).view(self.heads, 1, self.heads, 1)
        together = (axes_3Hw.permute(1, 0, 2).unsqueeze(2) * heads).reshape(3 * self.heads, -1)
        return linear(value_AHw.reshape(len(value_AHw), -1), together, None).view(-1, self.heads, 3)


class MoleculeHead(nn.Module):
    """Linear(d, d), GELU, Linear(d, outputs) on a molecule's readout.

    What its hidden layer has learned is of use to others: a property head that a checkpoint lacks begins with it, see `checkpoint.read`.
    """

    def __init__(self, config: ModelConfig, outputs: int):
        super().__init__()
        self.hidden = Linear(config.embed_dim, config.embed_dim)
        self.out = Linear(config.embed_dim, outputs)

    def features(self, x_Bd: Tensor) -> Tensor:
        """(B, d) what the last layer reads."""
        return F.gelu(self.hidden(x_Bd))

    def forward(self, x_Bd: Tensor) -> Tensor:
        """(B, outputs)."""
        return self.out(self.features(x_Bd))


class PropertyHead(MoleculeHead):
    """One output for each target.

    Outputs are `output_scale` times what the last layer gives, and its weights as many times smaller at the start. A step of Adam is of one
    size for all weights, so that the last layer learns as many times faster than all else, whatever the optimizer shards.
    """

    reads = "molecules"

    def __init__(self, config: ModelConfig):
        super().__init__(config, config.tasks)
        self.output_scale = config.output_scale

    def start(self) -> None:
        """Outputs begin as large as they would without a scale."""
        self.out.weight.div_(self.output_scale)

    def forward(self, x_Bd: Tensor) -> Tensor:
        """(B, tasks), in float32 where products of float32 are lowered elsewhere: so few of them take no time."""
        with products_in(None):
            outputs = super().forward(x_Bd)
            return outputs if self.output_scale == 1 else outputs * self.output_scale


BUILDERS: dict[str, Callable[[ModelConfig], nn.Module]] = {  # state: an objective adds its own head when it is imported
    "spd": lambda config: PairHead(config, SPD_CLASSES),
    "edge": lambda config: PairHead(config, MAX_HOPS * EDGE_CLASSES),
    "displacement": lambda config: GeometryHead(config, 3),
    "distance": lambda config: GeometryHead(config, 1),
    "noise": NoiseHead,
    "property": PropertyHead,
}
"""Name -> what makes a head; objectives add theirs when they are imported."""
HEADS = tuple(BUILDERS)
"""The model's own, which `MoleBlend.forward` runs. Each says what it `reads`: vectors of "atoms", those and the "structure" (bias and
coordinates), or vectors of "molecules"."""


@runtime_checkable
class WithStart(Protocol):
    """A head that sets some of its parameters itself, after all others were drawn as `MoleBlend.reset_parameters` says."""

    def start(self) -> None:
        """Set them."""


def register_head(name: str, build: Callable[[ModelConfig], nn.Module]) -> None:
    """Let models carry a head of an objective, which calls it itself as `model.heads[name]`."""
    assert BUILDERS.setdefault(name, build) is build, f"two heads are called {name}"


def build_head(name: str, config: ModelConfig) -> nn.Module:
    """A head by its name; UserError if there is none of this name."""
    if name not in BUILDERS:
        raise UserError(f"unknown head {name!r}; there are {', '.join(BUILDERS)}")
    return BUILDERS[name](config)
