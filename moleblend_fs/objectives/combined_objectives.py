"""Sums of objectives: `--objective a,b --objective-weights 1,0.5` is their weighted losses added up; logs keep them apart."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.sidecar import SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.common.views import shared_passes
from moleblend_fs.objectives.objective import Label, Objective, Prepared, Read, Term
from moleblend_fs.ops.layout import Layout


class Combined(Objective):
    """Several objectives as one. What each logs has its name in front; a weight multiplies those of its terms.

    All of them see the same batches; views that several of them ask for are encoded once, see `common/views`.

    Args:
        parts: the objectives, each another.
        weights: one for each; all 1 if there are none.
    """

    def __init__(self, parts: Sequence[Objective], weights: Sequence[float] = ()):
        super().__init__(None)
        self.parts = list(parts)
        self.weights = list(weights) or [1.0] * len(self.parts)
        names = ",".join(part.name for part in self.parts)
        if len(self.weights) != len(self.parts):
            raise UserError(f"--objective-weights must have one number for each of --objective {names}, got {len(self.weights)}")
        if min(self.weights) <= 0:
            raise UserError(f"--objective-weights must be above 0, got {','.join(f'{w:g}' for w in self.weights)} for {names}")
        sizes = {part.group for part in self.parts} - {None}
        assert len(sizes) <= 1, "groups have one size: the option is shared"

    def heads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(head for part in self.parts for head in part.heads()))

    def terms(self) -> tuple[Term, ...]:
        pairs = zip(self.parts, self.weights, strict=True)
        return tuple(Term(f"{part.name}_{term.name}", weight * term.weight) for part, weight in pairs for term in part.terms())

    def check(self, manifest: Manifest, store: str) -> None:
        for part in self.parts:
            part.check(manifest, store)

    @property
    def passes(self) -> float:
        """Before any are shared."""
        return sum(part.passes for part in self.parts)

    def facts(self) -> dict[str, Any]:
        each = [part.own_facts(weight) for part, weight in zip(self.parts, self.weights, strict=True)]
        return {"objectives": each, "passes": self.passes}

    @property
    def group(self) -> int | None:
        return next((part.group for part in self.parts if part.group is not None), None)

    @property
    def conformers(self) -> int:
        return max(part.conformers for part in self.parts)

    def labels(self, manifest: Manifest) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label for part in self.parts for label in part.labels(manifest)))

    def take_labels(self, labels: Mapping[str, Label]) -> None:
        for part in self.parts:
            part.take_labels(labels)

    def sidecars(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.sidecars()))

    def take_sidecars(self, sidecars: Mapping[str, SidecarManifest]) -> None:
        for part in self.parts:
            part.take_sidecars(sidecars)

    def config_fields(self) -> dict[str, Any]:
        each = [part.config_fields() for part in self.parts]
        sizes = {name: size for fields in each for name, size in fields.get("sizes", {}).items()}
        return {name: value for fields in each for name, value in fields.items()} | ({"sizes": sizes} if sizes else {})

    @property
    def prepares_on_device(self) -> bool:
        return all(part.prepares_on_device for part in self.parts)

    def begin(self, model: MoleBlend) -> None:
        for part in self.parts:
            part.begin(model)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        parts = [part.prepare(batch, layout, seed=seed, epoch=epoch) for part in self.parts]
        return Prepared(batch, layout, torch.cat([part.counts for part in parts]), parts)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        with shared_passes():
            sums = [part.loss_sums(model, ready) for part, ready in zip(self.parts, prepared.parts, strict=True)]
        return torch.cat(sums)

    def statistics(self, prepared: Prepared) -> dict[str, Tensor]:
        each = zip(self.parts, prepared.parts, strict=True)
        return {f"{part.name}_{name}": value for part, ready in each for name, value in part.statistics(ready).items()}

    def logged(self) -> dict[str, Callable[[Read], float]]:
        def read_by(part: Objective, value: Callable[[Read], float], read: Read) -> float:
            return value(Read(lambda term: read.mean(f"{part.name}_{term}"), lambda name: read.statistic(f"{part.name}_{name}")))

        return {
            f"{part.name}_{name}": functools.partial(read_by, part, value) for part in self.parts for name, value in part.logged().items()
        }
