"""Predictions and representations from Python: `from moleblend_fs import Predictor, Embedder`."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rdkit import Chem

from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.errors import UserError
from moleblend_fs.inference.comparison import parse_allowed
from moleblend_fs.inference.forward import Forward, ReadOff, atom_means, atom_tokens, distances, graph_tokens, properties
from moleblend_fs.inference.predict import check_weights
from moleblend_fs.model.shown import MODALITIES
from moleblend_fs.predictions.domain import Domain
from moleblend_fs.predictions.model import ABOUT, open_predictive
from moleblend_fs.predictions.preparing import prepare
from moleblend_fs.predictions.rows import made_of
from moleblend_fs.predictions.table import LEVEL, PredictionTable
from moleblend_fs.predictions.windows import Per, Window, windows
from moleblend_fs.sources.incoming import Incoming, IncomingMols, IncomingSmiles, find_smiles_column, open_incoming

FEW = 256
"""Molecules up to which this process makes them itself: starting others takes longer."""
TOKENS = 16_384
Molecules = Any
"""A SMILES or an RDKit molecule, a sequence of either, a DataFrame with a column of SMILES, or the path of a file."""
Level = Literal["graph", "mean", "atom", "distances"]
LEVELS: Mapping[str, tuple[ReadOff, Per]] = {
    "graph": (graph_tokens, "molecule"),
    "mean": (atom_means, "molecule"),
    "atom": (atom_tokens, "atom"),
    "distances": (distances, "pair"),
}
"""What representations are of, how they are read off, and what there is one of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Predictions of n molecules, in the order that they were given.

    Attributes:
        targets: names. units: of each.
        smiles: of the molecules, or what was given where there is none.
        values: (n, targets) in the targets' units, probabilities for classification; NaN where there is no prediction.
        status: "ok", or why there is none, or what else is to be said.
        std: (n, targets) standard deviation of the members' predictions; None for a single model.
        low, high: (n, targets) conformal intervals; NaN for classes. None where nothing was calibrated.
        similarity: (n,) to the nearest training molecule; outside: (n,) bool, too low. None where training molecules are not known.
        columns: of the input: name -> a cell for each row.
    """

    targets: tuple[str, ...]
    units: tuple[str, ...]
    smiles: list[str]
    values: np.ndarray
    status: list[str]
    std: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    similarity: np.ndarray | None = None
    outside: np.ndarray | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, target: str) -> np.ndarray:
        """(n,) values of a target."""
        if target not in self.targets:
            raise KeyError(f"no target {target!r}; there are: {', '.join(self.targets)}")
        return self.values[:, self.targets.index(target)]

    def to_dict(self) -> dict[str, Any]:
        """Column name -> n values, named as `moleblend predict` does."""
        result: dict[str, Any] = dict(self.columns)
        for i, target in enumerate(self.targets):
            name = f"{target} (predicted)" if target in (*self.columns, "status") else target
            result[name] = self.values[:, i]
            for suffix, array in (("std", self.std), ("low", self.low), ("high", self.high)):
                if array is not None and not (suffix != "std" and np.isnan(array[:, i]).all()):
                    result[f"{name}_{suffix}"] = array[:, i]
        if self.similarity is not None and self.outside is not None:
            result |= {"similarity": self.similarity, "outside_domain": self.outside}
        return result | {("status (predicted)" if "status" in self.columns else "status"): self.status}

    def to_pandas(self) -> Any:
        """A DataFrame of `to_dict`."""
        import pandas

        return pandas.DataFrame(self.to_dict())


class _Reader:
    """What both classes share: how molecules are taken, and the device."""

    def __init__(
        self,
        device: str | None,
        workers: int | None,
        hydrogens: str | None,
        allow_differences: Iterable[str],
        row_timeout: float,
        tell: Callable[[str], None] | None,
    ):
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._workers, self._hydrogens, self._timeout = workers, hydrogens, row_timeout
        self._allowed = parse_allowed(",".join(allow_differences))
        self._told: set[str] = set()
        self._tell = tell or partial(warnings.warn, stacklevel=5)

    def _windows(
        self, incoming: Incoming, checkpoint: Checkpoint, inputs: str, purpose: Literal["predict", "embed"], forward: Forward, per: Per
    ) -> Iterator[Window]:
        name = str(incoming.files()[0]) if incoming.files() else "the molecules"
        said = prepare(incoming, checkpoint, purpose=purpose, inputs=inputs, name=name, hydrogens=self._hydrogens, allowed=self._allowed)
        for line in [line for line in [*incoming.notes, *said] if line not in self._told]:
            self._told.add(line)
            self._tell(line)
        workers = self._workers
        if workers is None:
            few = not incoming.files() and incoming.count() <= FEW
            workers = 0 if few else min(8, os.cpu_count() or 1)
        yield from windows(made_of(incoming, workers=workers, row_timeout=self._timeout), forward, per=per)


class Predictor(_Reader):
    """A checkpoint, or a folder of `moleblend finetune`, ready to predict.

    Args:
        path: see `moleblend predict`.
        device: "cpu", "cuda", ...; by default cuda where there is one.
        max_tokens: most tokens in a batch.
        workers: processes that make molecules; by default none for few molecules.
        interval: share of values that intervals are to hold.
        similarity: whether to compare with the training molecules.
        hydrogens: "none" or "explicit", for models that do not say what they were trained on.
        allow_differences: see `--allow-differences`.
        row_timeout: seconds for a molecule, where other processes make them.
        tell: is given what should be known, a sentence each; by default these are warnings.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        device: str | None = None,
        max_tokens: int = TOKENS,
        workers: int | None = None,
        interval: float = LEVEL,
        similarity: bool = True,
        hydrogens: str | None = None,
        allow_differences: Iterable[str] = (),
        row_timeout: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ):
        super().__init__(device, workers, hydrogens, allow_differences, row_timeout, tell)
        if not 0 < interval < 1:
            raise UserError(f"interval must lie between 0 and 1, got {interval}")
        self.model, self.interval = open_predictive(Path(path)), interval
        models = [member.build() for member in self.model.members]
        self._forward = Forward(models, self.device, self.model.about.inputs, properties, max_tokens)
        training = self.model.training_molecules
        self._domain = Domain.read(training) if similarity and training is not None else None

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads."""
        self._forward.close()

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what is predicted."""
        return self.model.about.targets

    def __call__(self, molecules: Molecules) -> Predictions:
        return self.predict(molecules)

    def predict(self, molecules: Molecules) -> Predictions:
        """Predictions of molecules; all are held in memory, `moleblend predict` streams.

        Args:
            molecules: a SMILES or an RDKit molecule, a sequence of either, a DataFrame with a column of SMILES, or the path of a file
                (a `Path`, or a str that names a file that is there). Conformers of RDKit molecules are taken with their coordinates where
                the model reads structures.

        Raises:
            UserError: the molecules do not fit the model. Single ones that cannot be read have their reason in `status`.
        """
        incoming = taken(molecules)
        table = PredictionTable(self.model, incoming.columns, domain=self._domain, level=self.interval)
        parts, statuses, smiles, similarity = [], [], [], [np.zeros(0)]
        cells: list[Sequence[str]] = []
        for window in self._windows(incoming, self.model.members[0], self.model.about.inputs, "predict", self._forward, "molecule"):
            combined, finite = table.combined(window)
            parts.append(combined)
            statuses += table.statuses(window, finite)
            smiles += [row.smiles for row in window.rows]
            cells += [row.cells for row in window.rows]
            if self._domain is not None:
                similarity.append(self._domain.similarity([row.smiles if row.record else "" for row in window.rows]))
        arrays: dict[str, Any] = {}
        for name in ("values", "std", "low", "high"):
            found = [getattr(part, name) for part in parts]
            arrays[name] = np.concatenate(found) if found and found[0] is not None else None
        if arrays["values"] is None:
            arrays["values"] = np.zeros((0, len(self.targets)))
        nearest = np.concatenate(similarity) if self._domain is not None else None
        return Predictions(
            targets=self.targets,
            units=self.model.about.units,
            smiles=smiles,
            status=statuses,
            similarity=nearest,
            outside=None if self._domain is None or nearest is None else self._domain.outside(nearest),
            columns={name: [row[i] for row in cells] for i, name in enumerate(incoming.columns)},
            **arrays,
        )


class Embedder(_Reader):
    """Representations of molecules by a pretrained or finetuned model.

    Args:
        path: checkpoint, or a folder of `moleblend finetune`, of which `member` is taken.
        inputs: "2d", "3d" or "2d+3d"; by default those of a finetuned model, else "2d".
        layer: after how many blocks; 0 is what goes into the first. All by default.
        device, max_tokens, workers, hydrogens, allow_differences, row_timeout, tell: see `Predictor`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        inputs: str | None = None,
        layer: int | None = None,
        member: int = 0,
        device: str | None = None,
        max_tokens: int = TOKENS,
        workers: int | None = None,
        hydrogens: str | None = None,
        allow_differences: Iterable[str] = (),
        row_timeout: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ):
        super().__init__(device, workers, hydrogens, allow_differences, row_timeout, tell)
        self.checkpoint = checkpoint_of(Path(path), member)
        config, finetuned = self.checkpoint.config, self.checkpoint.finetuned
        self.inputs = inputs or ("2d" if finetuned is None else finetuned.inputs)
        if self.inputs not in MODALITIES:
            raise UserError(f"inputs must be one of {', '.join(MODALITIES)}, got {self.inputs!r}")
        if layer is not None and not 0 <= layer <= config.layers:
            raise UserError(f"layer must lie in 0 to {config.layers}, the blocks of this model, got {layer}")
        self.layer, self.width, self._tokens = layer, config.embed_dim, max_tokens
        self._model = self.checkpoint.build()
        self._forwards: dict[str, Forward] = {}

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads."""
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()

    def forward(self, level: Level) -> Forward:
        """What computes a level."""
        if level not in LEVELS:
            raise UserError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if level == "distances" and "distance" not in self.checkpoint.config.heads:
            raise UserError(
                f"{self.checkpoint.about.get('file')} has no head that predicts distances; one pretrained with --geometry-target distance "
                "has (displacements are predicted but for their length)"
            )
        if level not in self._forwards:
            read_off, _ = LEVELS[level]
            read_off = read_off if level == "distances" else partial(read_off, blocks=self.layer)  # type: ignore[call-arg]
            alone = level == "distances"  # sizes of the pair heads are not those that `Forward` looks at
            self._forwards[level] = Forward([self._model], self.device, self.inputs, read_off, self._tokens, apart=alone)
        return self._forwards[level]

    def windows(self, incoming: Incoming, level: Level) -> Iterator[Window]:
        """Rows with what was read off, part by part."""
        return self._windows(incoming, self.checkpoint, self.inputs, "embed", self.forward(level), LEVELS[level][1])

    def __call__(self, molecules: Molecules, level: Level = "graph") -> Any:
        """Representations, float32.

        Args:
            molecules: see `Predictor.predict`.
            level: "graph" for the graph token's, "mean" for the mean of the atoms', "atom" for each atom's; "distances" for predicted
                distances between all atoms in Angstrom, of models that have such a head.

        Returns:
            (n, d) for "graph" and "mean", NaN where there is no molecule. Else a list of n arrays, (atoms, d) or (atoms, atoms), or None
            where there is no molecule; atoms stand in the order of the SMILES or RDKit molecule, hydrogens that were added after them.
        """
        found = [
            shaped(None if values is None else values[0], int(atoms), level)
            for window in self.windows(taken(molecules), level)
            for values, atoms in zip(window.values, window.num_atoms, strict=True)
        ]
        if LEVELS[level][1] != "molecule":
            return found
        missing = np.full(self.width, np.nan, dtype=np.float32)
        return np.stack([missing if each is None else each for each in found]) if found else np.zeros((0, self.width), np.float32)


def shaped(values: np.ndarray | None, atoms: int, level: Level) -> np.ndarray | None:
    """What was read off of a molecule, as float32; distances as a matrix."""
    if values is None:
        return None
    return values.astype(np.float32).reshape(atoms, atoms) if level == "distances" else values.astype(np.float32)


def checkpoint_of(path: Path, member: int = 0) -> Checkpoint:
    """A checkpoint, or a member of a run folder."""
    if not (path / ABOUT).is_file():
        checkpoint = load(path)
        check_weights(checkpoint)
        return checkpoint
    members = open_predictive(path).members
    if not 0 <= member < len(members):
        raise UserError(f"{path} has members 0 to {len(members) - 1}, got {member}")
    return members[member]


def taken(molecules: Molecules) -> Incoming:
    """What was given, as rows."""
    if isinstance(molecules, Incoming):
        return molecules
    if isinstance(molecules, Path) or (isinstance(molecules, str) and Path(molecules).is_file()):
        return open_incoming(Path(molecules))
    if isinstance(molecules, str):
        return IncomingSmiles([molecules])
    if isinstance(molecules, Chem.Mol):
        return IncomingMols([molecules])
    if hasattr(molecules, "columns") and hasattr(molecules, "iloc"):  # pandas, which is not imported for it
        column = find_smiles_column([str(name) for name in molecules.columns])
        if column is None:
            raise UserError(f"the DataFrame has no column called smiles; it has: {', '.join(map(str, molecules.columns))}")
        molecules = ["" if text is None or text != text else str(text) for text in molecules[column].tolist()]
    given = list(molecules)
    if all(isinstance(each, str) for each in given):
        return IncomingSmiles(given)
    if all(each is None or isinstance(each, Chem.Mol) for each in given):
        return IncomingMols(given)
    raise UserError("molecules must all be SMILES, or all be RDKit molecules")
