"""Where the property head's last layer begins: at the linear model that frozen weights allow, instead of at random.

Finetuning from a random last layer changes what the encoder has learned before that layer knows anything, most of all for molecules unlike
those of training; a last layer that is fitted first leaves less to be changed (Kumar et al., ICLR 2022, arXiv 2202.10054).
"""

import logging

import numpy as np
import torch
import torch.distributed as dist

from fairseq_plugins import splits
from fairseq_plugins.finetuning_task import FinetuningTask
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.inference.forward import Forward, last_features
from moleblend_fs.model.heads import PropertyHead
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.linear_probe import Linear, logistic, ridge
from moleblend_fs.runtime import watchdog
from moleblend_fs.wording import counted

logger = logging.getLogger(__name__)

MOST = 20_000
"""Training molecules that are looked at, evenly spaced over more."""
FEWEST = 3
"""Labels that a target needs."""
TOKENS = 4096
"""Of a batch."""


@torch.no_grad()
def begin_linearly(model: MoleBlend, task: FinetuningTask, device: torch.device) -> None:
    """Set the last layer's weights and biases by linear models on the training molecules; a target with too few labels, or of one class
    alone, stays as it is. Every process sets what the first one has found."""
    indices = np.asarray(splits.indices(task.store, task.cfg.train_subset))
    indices = indices[np.linspace(0, len(indices) - 1, min(MOST, len(indices))).astype(np.int64)]
    labels = all_labels(task.store, indices)[:, task.columns]
    features = features_of(model, task, indices, device)
    head = model.heads["property"]
    assert isinstance(head, PropertyHead)
    out, scale = head.out, head.output_scale
    told = []
    for target, (name, mean, std) in enumerate(zip(task.finetuned.targets, task.finetuned.mean, task.finetuned.std, strict=True)):
        found = linear_model(features, (labels[:, target] - mean) / std, task.kind)
        if found is not None:
            out.weight[target] = torch.as_tensor(found.weight / scale).to(out.weight)
            out.bias[target] = found.bias / scale
            told.append(f"{name} {found.error:.3f}")
    if dist.is_initialized():
        for parameter in (out.weight, out.bias):
            dist.broadcast(parameter.data, 0)
    what = "error" if task.kind == "regression" else "cross-entropy"
    logger.info(
        "the property head's last layer begins as a linear model on %s; %s where each is left out: %s",
        counted(len(indices), "training molecule"), what, ", ".join(told) or "none",
    )  # fmt: skip


def features_of(model: MoleBlend, task: FinetuningTask, indices: np.ndarray, device: torch.device) -> np.ndarray:
    """(n, d) what the last layer reads of each molecule, without dropout."""
    found = np.zeros((len(indices), model.config.embed_dim))
    training = model.training
    with Forward([model.eval()], str(device), task.finetuned.inputs, last_features, TOKENS) as forward:
        for places in forward.batches(task.store.num_atoms[indices]):
            watchdog.step("the linear model that the property head begins with")
            found[places] = forward.submit_records(task.store.records(indices[places])).result()[0]
    model.train(training)
    return found


def linear_model(features_nd: np.ndarray, labels_n: np.ndarray, kind: str) -> Linear | None:
    """Of the labels that are there (not NaN), scaled as in training; None where they are too few, or of one class."""
    present = ~np.isnan(labels_n)
    x, y = features_nd[present], labels_n[present]
    if len(y) < FEWEST or y.min() == y.max():
        return None
    return ridge(x, y) if kind == "regression" else logistic(x, y)
