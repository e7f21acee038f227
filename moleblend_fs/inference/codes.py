"""Codes of a store's atoms, by the codebook of a tokenizer."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.inference.forward import Forward
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.codebook import CODEBOOK
from moleblend_fs.ops.layout import Layout

WINDOW = 4096
"""Molecules that are sorted by size, computed and kept together."""


def atom_codes(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout) -> Tensor:
    """(A, 1) number of each atom's code; NaN where its vector is not finite."""
    atoms = model.encode(batch, shown, layout)[0].index_select(0, layout.atom_tokens)
    _, number = model.heads[CODEBOOK](atoms, batch.atom_features[:, 0].long())
    return torch.where(atoms.isfinite().all(dim=1), number.double(), torch.nan).unsqueeze(1)


def codes_of(
    checkpoint: Checkpoint, device: str, tokens: int, store: Store, begin: int, end: int
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """(index, codes of its atoms) of a store's molecules, from 2D, window after window, in the store's order.

    Raises:
        UserError: a molecule's vectors are not finite.
    """
    with Forward([checkpoint.build()], device, "2d", atom_codes, tokens) as forward:
        for start in range(begin, end, WINDOW):
            part = np.arange(start, min(end, start + WINDOW))
            sizes = store.num_atoms[part]
            found: list[np.ndarray] = [np.zeros(0)] * len(part)
            batches = forward.batches(sizes)
            under_way = [forward.submit_records(store.records(part[batch])) for batch in batches]
            for batch, values in zip(batches, under_way, strict=True):
                each = np.split(values.result()[0, :, 0], np.cumsum(sizes[batch])[:-1])
                for place, codes in zip(batch.tolist(), each, strict=True):
                    found[place] = codes
            if bad := [index for index, codes in zip(part, found, strict=True) if not np.isfinite(codes).all()]:
                raise UserError(f"{checkpoint.about.get('file')}: vectors of the molecule of row {store.source_row[bad[0]]} are not finite")
            yield [(int(index), codes.astype(np.int64)) for index, codes in zip(part, found, strict=True)]
