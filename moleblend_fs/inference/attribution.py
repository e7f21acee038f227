"""What a model's output rests on, molecule by molecule: its atoms, by integrated gradients, and the relations of its pairs, by hiding them.

Shape legend: n atoms of the molecule, d embedding width, k copies of it in a batch, t outputs that are asked for, p pairs i < j.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.errors import UserError
from moleblend_fs.inference.forward import PAIRS_PER_TOKEN
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD

Baseline = Literal["zero", "masked", "mean"]
RELATIONS = {"spd": SHOW_SPD, "edge": SHOW_EDGE, "distance": SHOW_DISTANCE}
"""Relation -> its bit of `Shown.relations`."""
STEPS, MOST_STEPS = 16, 256
"""Points of the path at which gradients are taken: so many at first, then twice as many until it is precise, at most so many."""
PRECISION = 1e-3
"""By which the attributions' sum may differ from output - baseline, in the outputs' standard deviations of the training labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomShares:
    """Outputs and what each atom gives to them; float64.

    Attributes:
        output: (t,) of the molecule. baseline: (t,) of the molecule with the baseline for each atom.
        atoms: (t, n), which sum to output - baseline, up to the integral's error.
    """

    output: np.ndarray
    baseline: np.ndarray
    atoms: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """(t,) by which the sums differ from output - baseline."""
        return self.atoms.sum(axis=1) - (self.output - self.baseline)


class Molecule:
    """One molecule before one model, ready to be asked in many variants.

    Args:
        model: in evaluation mode, with a property head. record: of the molecule. inputs: "2d", "3d" or "2d+3d".
        device: of the model. tokens: most tokens in a batch.
    """

    def __init__(self, model: MoleBlend, record: bytes, inputs: str, device: torch.device | str, tokens: int):
        self._model, self._record, self._inputs, self._device = model, record, inputs, device
        self.atoms = int(collate([record]).num_atoms[0])
        self.copies = max(2, min(tokens // (self.atoms + 1), PAIRS_PER_TOKEN * tokens // self.atoms**2))
        """Variants that a batch has room for."""

    def _packed(self, copies: int) -> tuple[MoleculeBatch, Layout, Shown]:
        batch = collate([self._record] * copies).to(self._device)
        layout = Layout(batch.num_atoms, self._device)
        return batch, layout, show_all(batch, layout, self._inputs)

    def _read_off(self, tokens_Td: Tensor, bias_PH: Tensor, layout: Layout, *, normalised: bool = False) -> Tensor:
        """(k, outputs) of the property head."""
        encoded = self._model.encode_embedded(tokens_Td, bias_PH, layout, normalised=normalised)
        return self._model.heads["property"](self._model.read_out(encoded, layout))

    @torch.no_grad()
    def embeddings(self, kind: Baseline | None = None) -> tuple[Tensor, Tensor]:
        """(n, d) what the first block reads of the atoms, or what it would read of others in their places; the pairs' bias (n², H).

        Embeddings are taken after their layer norm: before it, the way from zero to one would be no way, since the norm takes lengths away.

        Args:
            kind: of the others: atoms whose embedding is zero, masked atoms as of pretraining, or the mean of the molecule's own atoms.
        """
        batch, layout, shown = self._packed(1)
        tokens, bias = self._model.embed(batch, shown, layout)
        if kind == "masked":
            tokens, _ = self._model.embed(batch, replace(shown, hidden=torch.ones_like(shown.degree)), layout)
        atoms = tokens.index_select(0, layout.atom_tokens)
        atoms = self._model.encoder.embedding_norm(torch.zeros_like(atoms) if kind == "zero" else atoms)
        return (atoms.mean(dim=0).expand_as(atoms) if kind == "mean" else atoms), bias

    def shares(self, baseline: Baseline, outputs: Sequence[int]) -> AtomShares:
        """Integrated gradients on the way from a baseline to the atoms' embeddings (Sundararajan et al. 2017, Eq. 1; Captum).

        The relations are the molecule's own all the way.

        Args:
            outputs: columns of the property head.
        """
        (embeddings, bias), start = self.embeddings(), self.embeddings(baseline)[0]
        graph = self._model.encoder.embedding_norm(self._model.atoms.graph_token).detach()

        def said(atoms_knd: Tensor) -> Tensor:
            copies = len(atoms_knd)
            layout = Layout(torch.full((copies,), self.atoms), self._device)
            tokens = torch.cat([graph.expand(copies, 1, -1), atoms_knd], dim=1).flatten(0, 1)
            return self._read_off(tokens, bias.repeat(copies, 1), layout, normalised=True)

        with torch.no_grad():
            ends = said(torch.stack([embeddings, start]))[:, list(outputs)].double().cpu().numpy()
        found = [self._integrated(said, embeddings, start, column, *ends[:, i]) for i, column in enumerate(outputs)]
        return AtomShares(output=ends[0], baseline=ends[1], atoms=np.stack(found))

    def _integrated(self, said, embeddings: Tensor, start: Tensor, column: int, output: float, base: float) -> np.ndarray:  # type: ignore[no-untyped-def]
        integrated, steps = captum()(said), STEPS
        while True:
            found = integrated.attribute(
                embeddings.unsqueeze(0), start.unsqueeze(0), target=column, n_steps=steps, internal_batch_size=self.copies
            )
            atoms = found[0].detach().double().sum(dim=1).cpu().numpy()
            if steps >= MOST_STEPS or abs(atoms.sum() - (output - base)) <= PRECISION:
                return atoms
            steps *= 2

    @torch.inference_mode()
    def hidden_relations(self, outputs: Sequence[int]) -> dict[str, np.ndarray]:
        """Relation -> (t, p) output with all relations - output where a pair does not show this one, in either direction.

        Pairs are those of `np.triu_indices(n, 1)`. Of the distance only its part in the attention bias is hidden; atoms' 3D features, which
        are sums over all distances, stay.
        """
        rows, columns = np.triu_indices(self.atoms, 1)
        shown = self._packed(1)[2].relations
        found = {}
        for name, bit in RELATIONS.items():
            if not bool((shown & bit).any()):
                continue
            parts = [self._without(bit, rows[part], columns[part], list(outputs)) for part in _parts(len(rows), self.copies)]
            found[name] = np.concatenate(parts, axis=1) if parts else np.zeros((len(outputs), 0))
        return found

    def _without(self, bit: int, rows: np.ndarray, columns: np.ndarray, outputs: list[int]) -> np.ndarray:
        """(t, pairs) changes for some pairs, beside the molecule as it is in the same batch."""
        batch, layout, shown = self._packed(len(rows) + 1)
        relations = shown.relations.clone().view(-1, self.atoms, self.atoms)
        each, i, j = (torch.as_tensor(x, device=relations.device) for x in (np.arange(1, len(rows) + 1), rows, columns))
        relations[each, i, j] &= ~bit & 255
        relations[each, j, i] &= ~bit & 255
        tokens, bias = self._model.embed(batch, replace(shown, relations=relations.flatten()), layout)
        said = self._read_off(tokens, bias, layout)[:, outputs].double().cpu().numpy().T
        return said[:, :1] - said[:, 1:]


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def captum():  # type: ignore[no-untyped-def]
    """Captum's integrated gradients, by Gauss-Legendre quadrature; UserError where it is not installed."""
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise UserError(f"explaining needs the package {error.name}: pip install 'moleblend-fs[explain]'") from error
    return lambda function: IntegratedGradients(function, multiply_by_inputs=True)
