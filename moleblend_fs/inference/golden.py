"""Comparison with reference outputs ("golden files"): the same weights, inputs and blend must give the same numbers.

A golden file is an .npz with `config` (JSON), `weight/NAME` under the reference release's names, inputs and outputs per
molecule `mI/...`, and for pretraining `loss/NAME` and `grad_norm/NAME`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.checkpoint.read import convert, load_weights
from moleblend_fs.checkpoint.reference_release import sources
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import MAX_SPD, UNREACHABLE, bond_class
from moleblend_fs.errors import UserError
from moleblend_fs.model.moleblend import MoleBlend, Outputs
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.common.loss import weighted_loss
from moleblend_fs.objectives.registry import DEFAULT_OBJECTIVE, find_objective
from moleblend_fs.ops.layout import Layout

UNREACHABLE_IN_FILE = 510
ROUNDING, CANCELLED = 1e-6, 1e-4
"""Gradient norms below these shares of the largest norm are measured against the largest norm, or against the share of it."""


def relative_error(ours: Tensor, theirs: np.ndarray | float) -> float:
    """max |ours - theirs| / max |theirs|."""
    reference = torch.as_tensor(np.asarray(theirs), dtype=torch.float64)
    if reference.shape != ours.shape:
        raise UserError(f"golden value has shape {tuple(reference.shape)}, ours {tuple(ours.shape)}")
    return float((ours.detach().double() - reference).abs().max() / reference.abs().max().clamp(min=1e-30))


class GoldenFile:
    """One golden file: its model, its molecules, its values.

    Args:
        path: the .npz file.
        dtype: float32, or float64 for a tighter look.
    """

    def __init__(self, path: str | Path, dtype: torch.dtype = torch.float32):
        try:
            with np.load(path, allow_pickle=False) as archive:
                self.values = {name: archive[name] for name in archive.files}
            self.config: dict[str, Any] = json.loads(str(self.values["config"]))
            self.molecules = list(range(int(self.values["n_molecules"])))
        except Exception as error:  # a damaged archive can raise nearly anything
            raise UserError(f"{path}: not a golden file ({error})") from error
        self.dtype = dtype
        weights = {
            name.removeprefix("weight/"): torch.from_numpy(value) for name, value in self.values.items() if name.startswith("weight/")
        }
        checkpoint = convert(weights, str(path))
        if checkpoint.about["not_understood"]:
            raise UserError(f"{path}: weights not understood: {', '.join(checkpoint.about['not_understood'])}")
        self.model = MoleBlend(checkpoint.config.without_dropout())
        load_weights(self.model, checkpoint.weights, where=str(path), strict=False)
        self.model.to(dtype).eval()

    def value(self, molecule: int, name: str) -> np.ndarray:
        """An array of one molecule."""
        return self.values[f"m{molecule}/{name}"]

    def batch(self, molecules: Sequence[int]) -> MoleculeBatch:
        """Molecules of the file as a packed batch. Path bonds are taken from the file, or found from its bonds."""
        parts = [self._molecule(m) for m in molecules]
        num_atoms = torch.tensor([len(part["atom_features"]) for part in parts])
        has_3d = [f"m{m}/coordinates" in self.values for m in molecules]
        joined: dict[str, Any] = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        return MoleculeBatch(
            num_atoms=num_atoms,
            molecule_id=torch.tensor(molecules),
            has_coordinates=torch.tensor(has_3d),
            labels=torch.zeros(len(parts), 0),
            has_label=torch.zeros(len(parts), 0, dtype=torch.bool),
            **joined,
        )

    def _molecule(self, m: int) -> dict[str, np.ndarray]:
        features = self.value(m, "atom_features")
        edges, edge_features = self.value(m, "edge_index"), self.value(m, "edge_features")
        spd = self.value(m, "spd").astype(np.int64)
        if f"m{m}/path_bonds" in self.values:
            path = self.value(m, "path_bonds")
            classes = np.where(path[..., 0] < 0, 0, bond_class(np.maximum(path, 0))).astype(np.uint8)
        else:
            from moleblend_fs.chem.paths import shortest_paths

            once = edges[0] < edges[1]
            _, classes = shortest_paths(len(features), edges.T[once].astype(np.uint16), bond_class(edge_features[once]))
        coordinates = self.values.get(f"m{m}/coordinates", np.zeros((len(features), 3)))
        return {
            "atom_features": features.astype(np.uint8),
            "degree": np.bincount(edges[0], minlength=len(features)).astype(np.uint8),
            "coordinates": coordinates.astype(np.float64 if self.dtype == torch.float64 else np.float32),
            "spd": np.where(spd >= UNREACHABLE_IN_FILE, UNREACHABLE, spd.clip(max=MAX_SPD)).astype(np.uint8).reshape(-1),
            "path_bonds": classes.reshape(-1, classes.shape[-1]),
        }

    def shown(self, molecules: Sequence[int], batch: MoleculeBatch, layout: Layout) -> tuple[Shown, Tensor]:
        """The input that the file prescribes, and its noise."""
        if "pretrain" not in self.config["mode"]:
            return show_all(batch, layout, "2d+3d" if "3D" in self.config["mode"] else "2d"), torch.zeros_like(batch.coordinates)

        def joined(name: str) -> Tensor:
            return torch.from_numpy(np.concatenate([self.value(m, name).reshape(-1) for m in molecules]))

        noise = joined("noise").view(-1, 3).to(batch.coordinates.dtype)
        distances = joined("atom_choice") == 1
        relations = (1 << joined("relation_choice").long()).to(torch.uint8)
        return Shown(relations=relations, degree=~distances, distances=distances, coordinates=batch.coordinates + noise), noise

    def run(self, molecules: Sequence[int]) -> tuple[Outputs, dict[int, dict[str, Tensor]]]:
        """One packed batch of some molecules: the outputs, and the same per molecule in the file's shapes."""
        batch = self.batch(molecules)
        layout = Layout(batch.num_atoms, "cpu")
        shown, _ = self.shown(molecules, batch, layout)
        outputs = self.model(batch, shown, layout)
        return outputs, dict(zip(molecules, self._per_molecule(outputs, layout), strict=True))

    def _per_molecule(self, outputs: Outputs, layout: Layout) -> Iterator[dict[str, Tensor]]:
        for b, n in enumerate(layout.sizes.tolist()):
            pairs = slice(layout.pair_starts[b], layout.pair_starts[b + 1])
            atoms = slice(layout.atom_starts[b], layout.atom_starts[b + 1])
            bias = self.model.relations.graph_bias.view(-1, 1, 1).expand(-1, n + 1, n + 1).clone()
            bias[:, 1:, 1:] = outputs.bias[pairs].view(n, n, -1).permute(2, 0, 1)
            result = {"attention_bias": bias, "final_hidden": outputs.tokens[layout.token_starts[b] : layout.token_starts[b + 1]]}
            for name, head in (("spd_logits", "spd"), ("edge_logits", "edge"), ("displacement", "displacement")):
                if (value := getattr(outputs, head)) is not None:
                    result[name] = value[pairs].view(n, n, *value.shape[1:])
            if outputs.noise is not None:
                result["predicted_noise"] = outputs.noise[atoms]
            if outputs.properties is not None:
                result["prediction"] = outputs.properties[b]
            yield result

    def losses(self, molecules: Sequence[int]) -> dict[str, Tensor]:
        """The pretraining losses of a batch, under the file's names."""
        objective = find_objective(self.config.get("objective", DEFAULT_OBJECTIVE)).weighing(self.config["loss_weights"])
        batch = self.batch(molecules)
        layout = Layout(batch.num_atoms, "cpu")
        prepared = objective.prepare_shown(batch, layout, *self.shown(molecules, batch, layout))
        sums, terms = objective.loss_sums(self.model, prepared), objective.terms()
        losses = {term.name: loss for term, loss in zip(terms, sums / prepared.counts.to(sums.dtype), strict=True)}
        weighted = weighted_loss(sums, prepared.counts, [term.weight for term in terms])
        return {**losses, "unweighted_total": torch.stack(list(losses.values())).sum(), "weighted_total": weighted}

    def compare(self) -> Iterator[tuple[str, float]]:
        """(name, largest relative error) of every output, loss and gradient norm of the file."""
        with torch.no_grad():
            _, ours = self.run(self.molecules)
            for name in next(iter(ours.values())):
                recorded = [m for m in self.molecules if f"m{m}/{name}" in self.values]
                if recorded:
                    yield name, max(relative_error(ours[m][name], self.value(m, name)) for m in recorded)
        if any(name.startswith("loss/") for name in self.values):
            losses = self.losses(self.molecules)
            for name, value in self.values.items():
                if name.startswith("loss/"):
                    yield name, relative_error(losses[name.removeprefix("loss/")], float(value))
            yield from self._gradients(losses["weighted_total"])

    def _gradients(self, loss: Tensor) -> Iterable[tuple[str, float]]:
        self.model.zero_grad()
        loss.backward()
        parameters = dict(self.model.named_parameters())
        norms = {name.removeprefix("grad_norm/"): float(value) for name, value in self.values.items() if name.startswith("grad_norm/")}
        largest = max(norms.values())
        for ours, theirs in sources(self.model.config).items():
            if ours not in parameters or theirs[0] not in norms:
                continue
            gradient = parameters[ours].grad
            assert gradient is not None, ours
            for name, part in zip(theirs, gradient.chunk(len(theirs)) if len(theirs) > 1 else [gradient], strict=True):
                # A sum that cancels to almost nothing holds the reference's own float32 rounding: against float64 one bias is
                # off by 2e-5 of itself, and a key bias, whose gradient is 0, is nothing else.
                yield (
                    f"grad_norm/{name}",
                    abs(float(part.norm()) - norms[name])
                    / (largest if norms[name] < ROUNDING * largest else max(norms[name], CANCELLED * largest)),
                )
