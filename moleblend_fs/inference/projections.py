"""Projected vectors of a store's molecules: what prototypes are found from."""

import functools

import numpy as np
from torch import Tensor

from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.inference.forward import atom_means, graph_tokens
from moleblend_fs.inference.predict import Runner
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.prototypes import PROJECTION
from moleblend_fs.objectives.common.views import POOLINGS
from moleblend_fs.ops.layout import Layout

READ_OFF = dict(zip(POOLINGS, (graph_tokens, atom_means), strict=True))


def fill(vectors_Nd: np.ndarray, how: Runner, checkpoint: Checkpoint, store: Store, indices: np.ndarray, pooling: str) -> None:
    """Write the projected vectors of molecules, from 2D; UserError if one is not finite."""
    done = 0
    for part in how.read(checkpoint, store, indices, "2d", vectors_Nd.shape[1], functools.partial(projected, pooling=pooling)):
        if len(bad := part.rows[part.not_finite()]):
            raise UserError(f"{checkpoint.about.get('file')}: the vector of the molecule of row {bad[0]} is not finite")
        vectors_Nd[done : done + len(part.values)] = part.values
        done += len(part.values)


def projected(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout, *, pooling: str) -> Tensor:
    """(B, d) projections of molecules' vectors."""
    return model.heads[PROJECTION](READ_OFF[pooling](model, batch, shown, layout))
