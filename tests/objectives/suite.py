"""What `test_all_objectives` is told of an objective: a `CASE` in tests/objectives/test_NAME.py, or nothing."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.packed_arrays import NUM_STRUCTURES, STRUCTURES
from moleblend_fs.data.sidecar import SidecarManifest
from moleblend_fs.data.store import Store
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.objective import Label, Objective
from moleblend_fs.objectives.registry import objectives
from moleblend_fs.ops.layout import Layout

SIZE = {"layers": 2, "embed_dim": 16, "ffn_dim": 16, "attention_heads": 2, "gaussians": 8, "pair_dim": 4, "hidden_3d": 8}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Of an objective.

    Attributes:
        variants: name -> options, besides the defaults.
        still: options under which nothing is moved in space, so that losses are invariant under rotation.
        turning: terms that are not, whatever the options: their targets turn with the molecule, the head's axes do not.
        reached: the loss, of every molecule, that a tiny model comes below on eight molecules when nothing else is asked of it; by variant.
        updates, rate: for that; the rate is Adam's. rates: of variants that want another.
        eight: these molecules, by their place among the store's, the smallest first.
        sidecars: what the objective is told of its sidecars.
        extra: adds the data that batches carry for it.
    """

    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    still: dict[str, Any] = field(default_factory=dict)
    turning: tuple[str, ...] = ()
    reached: dict[str, float] = field(default_factory=dict)
    updates: int = 300
    rate: float = 5e-3
    rates: dict[str, float] = field(default_factory=dict)
    eight: tuple[int, ...] = (0, 1, 2, 4, 6, 9, 13, 20)
    sidecars: dict[str, SidecarManifest] = field(default_factory=dict)
    extra: Callable[[MoleculeBatch], MoleculeBatch] = lambda batch: batch


def case_of(name: str) -> Case:
    """What its test says of an objective."""
    module = f"tests.objectives.test_{name}"
    if importlib.util.find_spec(module) is None:
        return Case()
    return getattr(importlib.import_module(module), "CASE", Case())


def made(name: str, variant: str, manifest: Manifest | None = None, **more: Any) -> Objective:
    """An objective with the options of a variant; labels as they stand in a store's records, unscaled where there is no store."""
    found = objectives()[name]
    objective = found(found.Options(**(case_of(name).variants[variant] if variant else {}) | more))
    objective.take_sidecars(case_of(name).sidecars)
    if manifest is not None:
        statistics = manifest.statistics["train"]
        labels = {}
        for label in objective.labels(manifest):
            column = manifest.label_index(label)
            labels[label] = Label(column, statistics[column].mean, statistics[column].std, manifest.labels[column].unit)
        objective.take_labels(labels)
    return objective


def model_of(objective: Objective, *, seed: int = 0, spread: float = 0.3, **size: int) -> MoleBlend:
    """A model in float64 without dropout, its weights large enough that everything matters."""
    torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed notes for each other device from where it is called
    config = ModelConfig(**{**SIZE, **size}, heads=objective.heads(), **objective.config_fields()).without_dropout()
    model = MoleBlend(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, spread)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0
    return model


def batch_of_store(store: Store, rows: Any, name: str) -> MoleculeBatch:
    """Molecules of a store, with what an objective needs besides."""
    return case_of(name).extra(collate(store.records(np.asarray(rows))))


def sums_and_counts(objective: Objective, model: MoleBlend, batch: MoleculeBatch, layout: Layout | None = None) -> tuple[Tensor, Tensor]:
    """Of a batch, by seed 3 and epoch 2."""
    ready = objective.prepare(batch, layout or Layout(batch.num_atoms, "cpu"), seed=3, epoch=2)
    return objective.loss_sums(model, ready), ready.counts


def mean_losses(objective: Objective, model: MoleBlend, batch: MoleculeBatch, layout: Layout | None = None) -> dict[str, float]:
    """Term -> sum / count."""
    sums, counts = sums_and_counts(objective, model, batch, layout)
    return {term.name: float(s / c) for term, s, c in zip(objective.terms(), sums.detach(), counts.clamp(min=1), strict=True)}


def with_structures(batch: MoleculeBatch) -> MoleculeBatch:
    """The batch with a second structure, a larger one, of about every other molecule that has one."""
    number = batch.has_coordinates.long() * (1 + (batch.molecule_id // 2) % 2)
    second = 1.3 * batch.coordinates * (number == 2).repeat_interleave(batch.num_atoms).unsqueeze(1)
    batch.extra[STRUCTURES] = torch.stack([batch.coordinates, second], dim=1)
    batch.extra[NUM_STRUCTURES] = number
    return batch
