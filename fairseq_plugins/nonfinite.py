"""A loss or gradient that is infinite or not a number: found, and told by all ranks in one message that names the molecules.

What is at fault is looked for in a batch by its input first, then by computing the loss and its gradient of parts of it: a
molecule's numbers never reach its batch mates (`tests/ops/test_isolation.py`), so that halving a batch finds the one at fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moleblend_fs.checkpoint.write import SharedError
from moleblend_fs.data.batch import ROWS_OF_ATOMS, ROWS_OF_PAIRS, MoleculeBatch
from moleblend_fs.data.packed_arrays import STRUCTURES
from moleblend_fs.data.store import Store

SHOWN = 5
"""Molecules that a message names, at most."""


class Culprit(NamedTuple):
    """A molecule at fault: its id (the row of its source), why, and whether its input is to blame or only what was computed of it."""

    molecule: int
    why: str
    by_input: bool


@dataclass(kw_only=True)
class Finding:
    """What one rank found in its part of an update, or in one batch of a validation split.

    Attributes:
        losses: names of those that are not finite.
        culprits: molecules at fault.
        molecules: ids of all that took part.
        weights: parameters of the model that are not finite themselves.
    """

    losses: list[str] = field(default_factory=list)
    culprits: list[Culprit] = field(default_factory=list)
    molecules: list[int] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)


def find(criterion: Any, model: Any, samples: Sequence[dict[str, Any]], sums: Tensor | None) -> Finding:
    """Look for what is at fault in this rank's batches.

    Args:
        criterion: in training or evaluation, as it was when the numbers came up.
        model: whole on this rank, to compute parts of batches with; None where it is not (ZeRO 3, or a later update).
        sums: sums of the criterion's losses over these batches.
    """
    while hasattr(model, "module"):  # what fairseq and DeepSpeed wrap it in
        model = model.module
    batches = [sample["batch"] for sample in samples if sample]
    found = Finding(molecules=[int(i) for batch in batches for i in batch.molecule_id])
    if sums is not None:
        finite = criterion.part(sums, "losses").isfinite().tolist()
        found.losses = [name for name, sound in zip(criterion.loss_names, finite, strict=True) if not sound]
    found.culprits = [culprit for batch in batches for culprit in unsound_input(batch)]
    if model is not None:
        found.weights = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
        if not found.weights and not found.culprits:
            for batch in batches:
                found.culprits += search(criterion, model, batch, SHOWN + 1 - len(found.culprits))
    return found


def unsound_input(batch: MoleculeBatch) -> list[Culprit]:
    """Molecules whose coordinates or labels are not finite, or so large that their squares are not."""
    owner = torch.arange(len(batch)).repeat_interleave(batch.num_atoms)
    structures = batch.extra.get(STRUCTURES, batch.coordinates.unsqueeze(1))
    far = ~structures.cpu().square().sum(dim=2).isfinite().all(dim=1)
    coordinates = torch.zeros(len(batch), dtype=torch.bool).index_put((owner[far],), torch.tensor(True))
    labels = (batch.has_label & ~batch.labels.square().isfinite()).any(dim=1).cpu()
    reasons = {"its coordinates are not finite": coordinates, "a label is not finite": labels}
    ids = batch.molecule_id.tolist()
    return [Culprit(ids[i], why, True) for why, flags in reasons.items() for i in flags.nonzero().flatten().tolist()]


def search(criterion: Any, model: nn.Module, batch: MoleculeBatch, most: int) -> list[Culprit]:
    """Molecules that give a loss or gradient that is not finite, by halving the batch; at most `most` of them."""
    why = fault(criterion, model, batch)
    if why is None or most <= 0:
        return []
    if len(batch) == 1:
        return [Culprit(int(batch.molecule_id[0]), why, False)]
    half = len(batch) // 2
    first = search(criterion, model, part(batch, 0, half), most)
    return first + search(criterion, model, part(batch, half, len(batch)), most - len(first))


def fault(criterion: Any, model: nn.Module, batch: MoleculeBatch) -> str | None:
    """What is not finite of a batch's loss and (in training) gradient; None if all is."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.set_grad_enabled(criterion.training):
        loss, _, log = criterion.compute(model, {"batch": batch})
        if not bool(criterion.part(log["sums"], "losses").isfinite().all()):
            return "its loss is not finite"
        if not np.isfinite(log.get("prediction", 0.0)).all():
            return "its prediction is not finite"
        if criterion.training and loss.requires_grad:
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            if not all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
                return "its gradient is not finite"
    return None


def part(batch: MoleculeBatch, start: int, stop: int) -> MoleculeBatch:
    """Molecules start ... stop - 1 of a batch."""
    atoms = np.concatenate([[0], np.cumsum(batch.num_atoms.numpy())])
    pairs = np.concatenate([[0], np.cumsum(batch.num_atoms.numpy() ** 2)])
    rows = {
        **dict.fromkeys(ROWS_OF_ATOMS, slice(int(atoms[start]), int(atoms[stop]))),
        **dict.fromkeys(ROWS_OF_PAIRS, slice(int(pairs[start]), int(pairs[stop]))),
    }
    return batch.map(lambda name, x: x[rows.get(name, slice(start, stop))])


def error_of_update(found: Finding, *, update: int, store: Store) -> SharedError:
    """The error that all ranks raise after all of them have looked; to be called by all."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, found)
        found = join(everyone)
    return SharedError(message(found, where=f"update {update}", store=store))


def join(findings: Sequence[Finding]) -> Finding:
    """What several ranks, or several batches, found."""
    return Finding(
        losses=list(dict.fromkeys(name for found in findings for name in found.losses)),
        culprits=[culprit for found in findings for culprit in found.culprits],
        molecules=[molecule for found in findings for molecule in found.molecules],
        weights=list(dict.fromkeys(name for found in findings for name in found.weights)),
    )


def message(found: Finding, *, where: str, store: Store, other: str = "the gradient") -> str:
    """What is not finite (`other` where all losses are), whose fault it is, and what to do."""
    if found.losses:
        what = f"the {' and the '.join(found.losses)} {'is' if len(found.losses) == 1 else 'are'} infinite or not a number"
    else:
        what = f"{other} is infinite or not a number, while every loss is finite"
    advice = "a smaller --lr, more --warmup-updates or a smaller --clip-norm may help"
    if found.weights:
        whose = f"{len(found.weights)} of the model's parameters are not finite themselves, e.g. {found.weights[0]}: {advice}"
    elif found.culprits:
        named = list(dict.fromkeys(found.culprits))
        listed = "; ".join(f"{name_of(store, culprit.molecule)}: {culprit.why}" for culprit in named[:SHOWN])
        more = f"; and {len(named) - SHOWN} more at least" if len(named) > SHOWN else ""
        remedy = "make the store again without such rows" if any(c.by_input for c in named) else f"if they are sound, {advice}"
        whose = f"at fault in {store.path}: {listed}{more}; {remedy}"
    else:
        some = ", ".join(name_of(store, molecule) for molecule in found.molecules[:SHOWN])
        rest = f" and {len(found.molecules) - SHOWN} more" if len(found.molecules) > SHOWN else ""
        whose = f"the input of all molecules is finite, which were {some}{rest} of {store.path}: {advice}"
    return f"{where}: {what}; {whose}. The run ends here, checkpoints stay as they were before"


def name_of(store: Store, molecule: int) -> str:
    """A molecule as its place in the store and its row of the source."""
    places = np.flatnonzero(np.asarray(store.source_row) == molecule)
    return f"molecule {places[0]} (row {molecule} of its source)" if len(places) else f"the molecule of row {molecule}"
