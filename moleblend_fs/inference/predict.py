"""Predictions and representations of the molecules of a store, without fairseq."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.batching import BatchBudget, make_batches
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.inference.checkpoint import Checkpoint
from moleblend_fs.model.moleblend import Outputs
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """How to run a model over a store.

    Attributes:
        device: "cpu", "cuda", ...
        tokens: most tokens in a batch.
        workers: loader processes.
    """

    device: str = "cpu"
    tokens: int = 16_384
    workers: int = 0

    def batches(self, store: Store, indices: np.ndarray) -> Iterator[tuple[np.ndarray, MoleculeBatch]]:
        """(positions in `indices`, batch), molecules of similar size together."""
        order = np.argsort(store.num_atoms[indices], kind="stable")
        sizes = store.num_atoms[indices][order]
        # A molecule over the budget gets a batch of its own.
        budget = BatchBudget(tokens=max(self.tokens, int(sizes[-1]) + 1 if len(sizes) else 0))
        batches = [batch.tolist() for batch in make_batches(order, sizes, budget)]
        loader = DataLoader(_Records(store, indices), batch_sampler=batches, collate_fn=collate, num_workers=self.workers)
        yield from zip((np.array(batch) for batch in batches), loader, strict=True)

    def outputs(
        self, checkpoint: Checkpoint, store: Store, indices: np.ndarray, inputs: str
    ) -> Iterator[tuple[np.ndarray, Layout, Outputs]]:
        """Model outputs of every batch."""
        model = checkpoint.build().to(self.device)
        with torch.inference_mode():
            for positions, batch in self.batches(store, indices):
                on_device = batch.to(self.device)
                layout = Layout(batch.num_atoms, self.device)
                yield positions, layout, model(on_device, show_all(on_device, layout, inputs), layout)

    def properties(self, checkpoint: Checkpoint, store: Store, indices: np.ndarray) -> np.ndarray:
        """(len(indices), targets) predictions in the targets' units; logits for classification.

        Raises:
            UserError: the checkpoint has no property head.
        """
        about = checkpoint.finetuned
        if about is None:
            raise UserError(f"{checkpoint.about.get('file')}: a pretrained model without a property head; finetune it first")
        check_structures(store, about.inputs, "the model was finetuned with")
        result = np.zeros((len(indices), len(about.targets)))
        for positions, _, outputs in self.outputs(checkpoint, store, indices, about.inputs):
            assert outputs.properties is not None
            result[positions] = outputs.properties.double().cpu().numpy()
        return result * np.array(about.std) + np.array(about.mean)

    def embeddings(self, checkpoint: Checkpoint, store: Store, indices: np.ndarray, inputs: str) -> np.ndarray:
        """(len(indices), d) float32 representations of the graph token."""
        check_structures(store, inputs, "what is asked for has")
        result = np.zeros((len(indices), checkpoint.config.embed_dim), dtype=np.float32)
        for positions, layout, outputs in self.outputs(checkpoint, store, indices, inputs):
            result[positions] = outputs.tokens[layout.graph_tokens].float().cpu().numpy()
        return result


def check_structures(store: Store, inputs: str, why: str) -> None:
    """UserError if a store lacks the structures that some inputs need: any for "2d+3d", all for "3d"."""
    manifest = store.manifest
    lacking = manifest.molecules - manifest.molecules_with_3d
    if "3d" in inputs and manifest.molecules_with_3d == 0:
        raise UserError(f"{store.path} has no 3D structures, but {why} inputs {inputs}; preprocess a source with structures")
    if inputs == "3d" and lacking:
        raise UserError(f"{lacking} of {manifest.molecules} molecules of {store.path} have no 3D structure, but {why} inputs 3d")


class _Records(torch.utils.data.Dataset):
    """Records by position in `indices`, fetched a batch at a time."""

    def __init__(self, store: Store, indices: np.ndarray):
        self.store = store
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> bytes:
        return self.store.record(int(self.indices[position]))

    def __getitems__(self, positions: list[int]) -> list[bytes]:
        return self.store.records(self.indices[np.asarray(positions)])
