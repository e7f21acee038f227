"""Views of a batch that several objectives ask for, and passes of the encoder over them.

A view that shows everything of a modality is one `Shown` for a batch, and within a sum of objectives one pass gives its encoding to all.
Shape legend: B molecules, A atoms, T tokens, P ordered pairs, H heads, d embedding width.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import MEAN, TOKEN
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.readout import mean_of_atoms
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.ops.layout import Layout

POOLINGS = (TOKEN, MEAN)
"""What stands for a molecule: its graph token, or the mean of its atoms."""
FULL_VIEWS = "full_views"
"""Where a layout keeps them."""


class Encoded(NamedTuple):
    """What a pass gives: tokens (T, d), atoms (A, d) and graph tokens (B, d) among them, and the pairs' bias (P, H)."""

    tokens: Tensor
    atoms: Tensor
    graphs: Tensor
    bias: Tensor

    def pooled(self, layout: Layout, pooling: str) -> Tensor:
        """(B, d), one of `POOLINGS`."""
        return self.graphs if pooling == TOKEN else mean_of_atoms(self.atoms, layout)


def full_view(batch: MoleculeBatch, layout: Layout, modality: str) -> Shown:
    """`show_all`, the same object for each call with a batch's layout."""
    views: dict[str, Shown] = vars(layout).setdefault(FULL_VIEWS, {})
    if modality not in views:
        views[modality] = show_all(batch, layout, modality)
    return views[modality]


_passes: ContextVar[dict[tuple[int, ...], tuple[Encoded, Shown]] | None] = ContextVar("passes", default=None)


@contextlib.contextmanager
def shared_passes() -> Iterator[None]:
    """While it lasts, `encode` gives what it gave before for the same model, batch and view."""
    token = _passes.set({})
    try:
        yield
    finally:
        _passes.reset(token)


def encode(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout) -> Encoded:
    """One pass of the encoder, or the one that was made before, see `shared_passes`."""
    passes = _passes.get()
    key = (id(model), id(batch), id(shown), int(torch.is_grad_enabled()))  # what was made without gradients is of no use with them
    if passes is not None and key in passes:
        return passes[key][0]
    tokens, bias = model.encode(batch, shown, layout)
    atoms, graphs = tokens.index_select(0, layout.atom_tokens), tokens.index_select(0, layout.graph_tokens)
    encoded = Encoded(tokens, atoms, graphs, bias)
    if passes is not None:
        passes[key] = encoded, shown  # kept alive, so that no other view gets its id
    return encoded
