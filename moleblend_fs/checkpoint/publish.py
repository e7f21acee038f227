"""Weights to be published: a pretrained encoder in 16 bits, with its card, and one hidden layer of its heads."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from moleblend_fs import __version__
from moleblend_fs.checkpoint.model_card import Facts, ModelCard, PretrainedOn
from moleblend_fs.checkpoint.read import HALF, Checkpoint, hidden_of_molecules, load, read_torch_file
from moleblend_fs.checkpoint.weights_by_name import located
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.mixture import Mixture, open_stores
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError

LICENCE = "Apache-2.0"
OF_LABELS = ("labels", "columns")
"""Options of stores that pretraining does not depend on."""
OTHER = ("heads.", "distances.")
"""What names of parameters begin with that are none of the encoder's."""


def published(
    path: str | os.PathLike, *, data: str = "", licence: str = LICENCE, limits: Sequence[str] = (), notes: Sequence[str] = ()
) -> Checkpoint:
    """A checkpoint of pretraining as it is published; `checkpoint.write.save` writes it.

    Args:
        path: of `moleblend train`. data: the stores that it was trained on, joined by ":"; "" for where training found them.
        licence, limits, notes: see `ModelCard`.

    Raises:
        UserError: no checkpoint of pretraining, other stores, or numbers that 16 bits do not hold.
    """
    path = located(path)
    checkpoint = load(path)
    if checkpoint.finetuned is not None or path.is_dir() or checkpoint.trained_on is None:
        raise UserError(f"{path}: --half is for checkpoints (.pt) of pretraining by `moleblend train`; leave --half out")
    facts = Facts(read_torch_file(path), str(path))
    dropped = checkpoint.config.heads
    kept = kept_weights(checkpoint)
    card = ModelCard(
        objectives=facts.objectives,
        updates=facts.updates,
        molecules_per_update=facts.molecules_per_update,
        seconds=facts.seconds,
        learning_rate=facts.learning_rate,
        settings=facts.settings,
        stores=_stores(data or facts.data, checkpoint.trained_on, str(path)),
        licence=licence,
        limits=(*_limits(checkpoint.trained_on), *limits),
        notes=tuple(notes),
        dropped=dropped,
        precision=str(HALF).removeprefix("torch."),
        version=__version__,
    )
    return replace(
        checkpoint,
        config=replace(checkpoint.config, heads=(), predicted_3d=False, tasks=1, molecule_values=1, sizes={}),
        weights={name: _half(name, value, path) for name, value in kept.items()},
        trained_on=replace(checkpoint.trained_on, labels=()),
        about={"format": "published", "updates": facts.updates},
        card=card,
    )


def kept_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The encoder's, and what a property head begins with."""
    encoder = {name: value for name, value in checkpoint.weights.items() if not name.startswith(OTHER)}
    return encoder | hidden_of_molecules(checkpoint)[1]


def _half(name: str, value: torch.Tensor, path: Path) -> torch.Tensor:
    half = value.to(HALF)
    if not bool(half.isfinite().all()):
        largest = f"its largest number is {float(value.abs().max()):.3g}" if bool(value.isfinite().all()) else "it is not finite"
        raise UserError(f"{path}: {name} cannot be kept in 16 bits: {largest}; leave --half out, or choose an earlier checkpoint")
    return half


def _stores(data: str, trained_on: TrainedOn, path: str) -> tuple[PretrainedOn, ...]:
    """What the card says of each store that was trained on."""
    try:
        store = open_stores(data)
    except UserError as error:
        raise UserError(f"{path}: the card tells of the stores that it was trained on; say where they are: --data A:B ({error})") from error
    if store.manifest.records_sha256 != trained_on.records_sha256:
        raise UserError(f"{path} was not trained on {data}, whose molecules have another hash; say where the stores are: --data A:B")
    splits = trained_on.train_subset.split(",")
    parts: Sequence[Store] = store.parts if isinstance(store, Mixture) else (store,)
    return tuple(
        PretrainedOn(
            source=part.manifest.source,
            molecules=sum(info.molecules for name, info in part.manifest.splits.items() if name in splits),
            records_sha256=part.manifest.records_sha256,
            inputs=dict(part.manifest.inputs),
            options={name: value for name, value in part.manifest.options.items() if name not in OF_LABELS},
            left_out=_left_out(part.manifest),
        )
        for part in parts
    )


def _left_out(manifest: Manifest) -> dict[str, int]:
    """Rows without a molecule, by why."""
    counts = manifest.rows
    found = {"no molecule": manifest.failures} if counts is None else {**counts.left_out, "no molecule": counts.failed}
    return {why: count for why, count in found.items() if count}


def _limits(trained_on: TrainedOn) -> list[str]:
    """What follows from the molecules."""
    limits = []
    if trained_on.hydrogens == "none":
        limits.append("Of heavy atoms: stores and molecules are made without hydrogens.")
    if trained_on.hydrogens == "explicit":
        limits.append("With hydrogens as atoms: stores and molecules are made with them.")
    if trained_on.molecules_with_3d == 0:
        limits.append("Never shown a structure: what reads distances begins untrained.")
    return limits
