"""Models run over batches, in threads. On a CPU a molecule's numbers do not depend, in any bit, on what it is computed with."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.batching import BatchBudget, make_batches
from moleblend_fs.model.heads import PropertyHead
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.readout import mean_of_atoms
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import FIXED_ROWS, MANY_ROWS, fixed_rows, products_in, rows_alike
from moleblend_fs.shared_options import PRECISIONS

VECTOR = 32
"""Numbers that torch's vectorised loops take at a time, at most; what is left over at an array's end goes another way, with other bits."""
PAIRS_PER_TOKEN = 64
"""Ordered pairs of a batch, per token that it may have: large molecules have more pairs than the memory of as many tokens would hold."""
LOWER: dict[str, torch.dtype | None] = dict(zip(PRECISIONS, (None, torch.bfloat16), strict=True))
"""Precision -> the type of large matrix products, where it is not the weights' own."""
ReadOff = Callable[[MoleBlend, MoleculeBatch, Shown, Layout], Tensor]
"""A model and a batch -> numbers that are asked for, (molecules, k) or (atoms, k)."""


class Forward:
    """Models of the same inputs, ready to be given batches.

    On a CPU each batch is computed by one thread, products by a fixed number of rows (`fixed_rows`), attention in shapes that depend on a
    molecule's own size. So a molecule's numbers are the same bits whatever the batch, its order and the number of threads are. Where
    sizes or the processor do not allow that, molecules are computed one by one.

    Args:
        models: in evaluation mode.
        device: "cpu", "cuda", ...
        inputs: of `data.model_description.INPUTS`.
        read_off: what is asked for.
        tokens: most tokens in a batch.
        apart: whether molecules are to be computed one by one in any case.
        precision: of `options.PRECISIONS`.

    Attributes:
        rows: of a product, see `fixed_rows`; 0 where their number is not fixed.
    """

    def __init__(
        self,
        models: Sequence[MoleBlend],
        device: str,
        inputs: str,
        read_off: ReadOff,
        tokens: int,
        *,
        apart: bool = False,
        precision: str = "float32",
    ):
        self.models = [model.to(device) for model in models]
        self.device, self.inputs, self.tokens, self._read_off = torch.device(device), inputs, tokens, read_off
        self._on_cpu = self.device.type == "cpu"
        self.threads = torch.get_num_threads() if self._on_cpu else 1
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = 0
        self._lower = LOWER[precision]
        with products_in(self._lower):
            self.rows = 0 if apart or not self._on_cpu else next(filter(self._alike, (*MANY_ROWS, FIXED_ROWS)), 0)
        self.apart = apart or (self._on_cpu and not self.rows)

    def _alike(self, rows: int) -> bool:
        return all(_batches_alike(model, rows) for model in self.models)

    def __enter__(self) -> "Forward":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what was not begun, and end the threads; others begin with the next batch, if there is one."""
        if self._pool is not None and self._pool_of == os.getpid():
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _started(self) -> ThreadPoolExecutor:
        """The threads of this process, which begin with the first batch: processes that load batches are forked before. A process that was
        forked from one with threads has none of them, and would wait for them for good.

        torch's own threads are told to be one within each of these, and stay as many as before elsewhere.
        """
        if self._pool is None or self._pool_of != os.getpid():
            self._pool, self._pool_of = ThreadPoolExecutor(self.threads), os.getpid()
            if self._on_cpu:
                ready = threading.Barrier(self.threads)

                def begin() -> None:
                    torch.set_num_threads(1)
                    torch.get_num_threads()  # else the first operation would take the number that other threads begin with
                    ready.wait()

                for started in [self._pool.submit(begin) for _ in range(self.threads)]:
                    started.result()
                torch.set_num_threads(self.threads)
        return self._pool

    @property
    def ahead(self) -> int:
        """Batches that should wait or be under way, so that no thread does."""
        return 2 * self.threads

    def batches(self, num_atoms: np.ndarray) -> list[np.ndarray]:
        """Places of molecules that go together, of similar size; each place once. A molecule over the budget gets a batch of its own."""
        sizes = num_atoms.astype(np.int64)
        order = np.argsort(sizes, kind="stable")
        fits = np.full(len(sizes), not self.apart) & (sizes < self.tokens) & (sizes**2 <= PAIRS_PER_TOKEN * self.tokens)
        together, alone = order[fits[order]], order[~fits[order]]
        budget = BatchBudget(tokens=self.tokens, pairs=PAIRS_PER_TOKEN * self.tokens)
        return [*make_batches(together, sizes[together], budget), *alone.reshape(-1, 1)]

    def submit(self, arrays: Mapping[str, np.ndarray] | Callable[[], MoleculeBatch]) -> "Future[np.ndarray]":
        """Begin to compute a batch; (models, molecules or atoms, k) float64 when it is done."""
        return self._started().submit(self._run, arrays)

    def submit_records(self, records: Sequence[bytes]) -> "Future[np.ndarray]":
        """`submit` of the batch that records make, which the thread joins."""
        return self.submit(lambda: collate(records))

    @torch.inference_mode()
    def _run(self, arrays: Mapping[str, np.ndarray] | Callable[[], MoleculeBatch]) -> np.ndarray:
        batch = (arrays() if callable(arrays) else MoleculeBatch.from_arrays(dict(arrays))).to(self.device)
        layout = Layout(batch.num_atoms, self.device)
        shown = show_all(batch, layout, self.inputs)
        with products_in(self._lower), fixed_rows(self.rows) if self.rows else nullcontext():
            return np.stack([self._read_off(model, batch, shown, layout).double().cpu().numpy() for model in self.models])


def _batches_alike(model: MoleBlend, rows: int) -> bool:
    """Whether `fixed_rows(rows)` makes a molecule's numbers independent of its batch, with this model, on this processor."""
    config = model.config
    if config.predicted_3d:  # sizes of the head that predicts distances are not among those below
        return False
    widths = (config.embed_dim, config.ffn_dim, config.gaussians, config.attention_heads * 16)
    shapes = {layer.weight.shape: layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return all(width % VECTOR == 0 for width in widths) and all(rows_alike(weight, rows) for weight in shapes.values())
    finally:
        torch.set_num_threads(threads)


def properties(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout) -> Tensor:
    """(B, tasks) outputs of the property head."""
    found = model(batch, shown, layout).properties
    assert found is not None
    return found


def last_features(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout) -> Tensor:
    """(B, d) what the last layer of the property head reads."""
    head = model.heads["property"]
    assert isinstance(head, PropertyHead)
    with products_in(None):
        return head.features(model.read_out(model.encode(batch, shown, layout)[0], layout))


def graph_tokens(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout, blocks: int | None = None) -> Tensor:
    """(B, d) representations of the graph tokens, after so many blocks (all by default)."""
    return model.encode(batch, shown, layout, blocks)[0].index_select(0, layout.graph_tokens)


def atom_tokens(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout, blocks: int | None = None) -> Tensor:
    """(A, d) representations of the atoms."""
    return model.encode(batch, shown, layout, blocks)[0].index_select(0, layout.atom_tokens)


def atom_means(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout, blocks: int | None = None) -> Tensor:
    """(B, d) means of the representations of each molecule's atoms."""
    return mean_of_atoms(atom_tokens(model, batch, shown, layout, blocks), layout)


def distances(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout) -> Tensor:
    """(P, 1) predicted distances between the atoms of each pair, Angstrom."""
    found = model(batch, shown, layout).distance if model.distances is None else model.distances(batch, layout)
    assert found is not None
    return found.unsqueeze(1)
