"""What predictions rest on, from Python: `from moleblend_fs import Explainer`."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from moleblend_fs.data.graph import MolecularGraph, reordered
from moleblend_fs.data.record import decode, encode
from moleblend_fs.errors import UserError
from moleblend_fs.inference.attribution import AtomShares, Baseline, Molecule, captum
from moleblend_fs.predictions.api import TOKENS, Molecules, Reader
from moleblend_fs.predictions.calibration import TargetCalibration
from moleblend_fs.predictions.checkpoint_model import open_predictive
from moleblend_fs.predictions.in_memory import taken
from moleblend_fs.predictions.rows import Made
from moleblend_fs.predictions.streaming import SHORT_OF_MEMORY

BASELINES = ("zero", "masked", "mean")
"""The first is the default: `python -m benchmarks explain` compares them."""
MOST_TARGETS = 12
"""Targets of a model that are explained without having been named."""
LOG_ODDS = "log odds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Of one molecule of n atoms, for t targets; all numbers in the targets' units, of classes in log odds.

    Attributes:
        smiles: of the molecule, or what was given where there is none.
        status: "ok", or why there is no explanation, or what else is to be said.
        targets, units: names, and units of the numbers.
        graph: the molecule; None where there is none.
        elements: (n,) symbols of its atoms, in the order of the SMILES or RDKit molecule, hydrogens that were added last.
        prediction, baseline: (t,) of the molecule, and of one with the baseline in the place of each atom.
        atoms: (t, n) what each atom gives: they sum to prediction - baseline.
        pairs: (p, 2) atoms i < j.
        relations: "spd", "edge" or "distance" -> (t, p) prediction - prediction where the pair does not show it.
    """

    smiles: str
    status: str
    targets: tuple[str, ...]
    units: tuple[str, ...]
    graph: MolecularGraph | None = None
    elements: tuple[str, ...] = ()
    prediction: np.ndarray = field(default_factory=lambda: np.zeros(0))
    baseline: np.ndarray = field(default_factory=lambda: np.zeros(0))
    atoms: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    relations: dict[str, np.ndarray] = field(default_factory=dict)


class Explainer(Reader):
    """A checkpoint or a folder of `moleblend finetune`, whose members' explanations are averaged.

    Arguments that are not told here are those of `Predictor`.

    Args:
        path: see `moleblend explain`.
        targets: names of those to explain; by default all.
        baseline: what stands for an atom that says nothing: the embedding "zero", the "masked" atom of pretraining, or the "mean" of the
            molecule's own atoms.
        relations: whether relations are hidden, too, which takes a pass for each pair and relation.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        targets: Sequence[str] | None = None,
        baseline: Baseline = "zero",
        relations: bool = True,
        device: str | None = None,
        max_tokens: int = TOKENS,
        workers: int | None = None,
        hydrogens: str | None = None,
        allow_differences: Iterable[str] = (),
        row_timeout: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ):
        super().__init__(workers, hydrogens, allow_differences, row_timeout, tell)
        if baseline not in BASELINES:
            raise UserError(f"baseline must be one of {', '.join(BASELINES)}, got {baseline!r}")
        captum()  # tells now where it is lacking
        self.model, self._baseline = open_predictive(Path(path)), baseline
        self._with_relations, self._tokens = relations, max_tokens
        about = self.model.about
        self.targets = self._chosen(targets)
        self._outputs = [about.targets.index(name) for name in self.targets]
        classes = [about.kinds[i] == "classification" for i in self._outputs]
        self.units = tuple(LOG_ODDS if is_class else about.units[i] for is_class, i in zip(classes, self._outputs, strict=True))
        self.device = self.model.device(device)
        self._models = [member.build().to(self.device) for member in self.model.members]
        self._scales = self._scales_of_members()

    def _chosen(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        known = self.model.about.targets
        if asked is None and len(known) > MOST_TARGETS:
            raise UserError(f"the model predicts {len(known)} targets; say which to explain: {', '.join(known[:20])}, ...")
        if missing := [name for name in asked or () if name not in known]:
            raise UserError(f"the model has no target {missing[0]!r}; there are: {', '.join(known[:40])}")
        return known if asked is None else tuple(dict.fromkeys(asked))

    def _scales_of_members(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(slope, intercept) of each member's outputs, (t,) each: the mean of what they make is the prediction."""
        calibration = self.model.calibration.targets if self.model.calibration is not None else {}
        plain = TargetCalibration(kind="classification")
        of_targets = [calibration.get(name, plain) for name in self.targets]
        scales = []
        for member in self.model.members:
            assert member.finetuned is not None
            slope = np.array([member.finetuned.std[i] for i in self._outputs])
            intercept = np.array([member.finetuned.mean[i] for i in self._outputs])
            for place, (i, of_target) in enumerate(zip(self._outputs, of_targets, strict=True)):
                if self.model.about.kinds[i] == "classification":
                    slope[place] *= of_target.slope
                    intercept[place] = intercept[place] * of_target.slope + of_target.intercept
            scales.append((slope, intercept))
        return scales

    def __call__(self, molecules: Molecules) -> list[Explanation]:
        return self.explain(molecules)

    def explain(self, molecules: Molecules) -> list[Explanation]:
        """Explanations of molecules, see `Predictor.predict` for what these may be."""
        return list(self.each(molecules))

    def each(self, molecules: Molecules) -> Iterator[Explanation]:
        """The same, one after the other."""
        incoming, inputs = taken(molecules), self.model.about.inputs
        for number, row in enumerate(chain.from_iterable(self._rows(incoming, self.model.members[0], inputs, "predict"))):
            yield self._of_row(row, inputs, partial(incoming.atom_order, number))

    def _of_row(self, row: Made, inputs: str, atom_order: Callable[[int], np.ndarray | None]) -> Explanation:
        """`atom_order` tells, for a number of atoms, where they stand in the molecule that was given; see `Incoming`."""
        if row.record is None:
            return self._without(row.smiles, f"no molecule: {row.reason}")
        record = row.record
        number, graph = decode(record)
        if (order := atom_order(graph.num_atoms)) is not None:
            graph = reordered(graph, np.argsort(order))
            record = encode(graph, number)
        if inputs == "3d" and graph.coordinates is None:
            return self._without(row.smiles, "no explanation: no 3D structure", graph)
        try:
            found = self._explained(record, inputs)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in SHORT_OF_MEMORY):
                raise
            return self._without(row.smiles, f"no explanation: not enough memory for {graph.num_atoms} atoms", graph)
        shares, relations = found
        if not np.isfinite(shares.output).all():
            return self._without(row.smiles, "no explanation: the model's output is not finite", graph)
        partly = inputs == "2d+3d" and graph.coordinates is None
        return Explanation(
            smiles=row.smiles,
            status="; ".join(["from 2D alone: no 3D structure" if partly else "ok", *row.notes]),
            targets=self.targets,
            units=self.units,
            graph=graph,
            elements=elements_of(graph),
            prediction=shares.output,
            baseline=shares.baseline,
            atoms=shares.atoms,
            pairs=np.stack(np.triu_indices(graph.num_atoms, 1), axis=1) if self._with_relations else np.zeros((0, 2), np.int64),
            relations=relations,
        )

    def _without(self, smiles: str, status: str, graph: MolecularGraph | None = None) -> Explanation:
        elements = () if graph is None else elements_of(graph)
        return Explanation(smiles=smiles, status=status, targets=self.targets, units=self.units, graph=graph, elements=elements)

    def _explained(self, record: bytes, inputs: str) -> tuple[AtomShares, dict[str, np.ndarray]]:
        """The mean over the members, in the targets' units."""
        shares: list[AtomShares] = []
        changes: list[dict[str, np.ndarray]] = []
        for model, (slope, intercept) in zip(self._models, self._scales, strict=True):
            molecule = Molecule(model, record, inputs, self.device, self._tokens)
            found = molecule.shares(self._baseline, self._outputs)
            ends = (found.output * slope + intercept, found.baseline * slope + intercept)
            shares.append(AtomShares(output=ends[0], baseline=ends[1], atoms=found.atoms * slope[:, None]))
            if self._with_relations:
                hidden = molecule.hidden_relations(self._outputs)
                changes.append({name: values * slope[:, None] for name, values in hidden.items()})
        output, baseline, atoms = (np.mean([getattr(each, name) for each in shares], axis=0) for name in ("output", "baseline", "atoms"))
        together = {name: np.mean([each[name] for each in changes], axis=0) for name in (changes[0] if changes else ())}
        return AtomShares(output=output, baseline=baseline, atoms=atoms), together


def elements_of(graph: MolecularGraph) -> tuple[str, ...]:
    """Symbols of the atoms."""
    from moleblend_fs.chem.depict import molecule_from_graph

    return tuple(atom.GetSymbol() for atom in molecule_from_graph(graph).GetAtoms())
