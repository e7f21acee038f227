"""Representations from Python: `from moleblend_fs import Embedder`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

import numpy as np

from moleblend_fs.data.model_description import INPUTS, Described
from moleblend_fs.data.onnx_detection import is_exported
from moleblend_fs.errors import UserError
from moleblend_fs.predictions.api import TOKENS, Molecules, Reader
from moleblend_fs.predictions.in_memory import taken
from moleblend_fs.predictions.open_model import not_installed
from moleblend_fs.predictions.predictive_model import Computing
from moleblend_fs.predictions.rows import Made
from moleblend_fs.predictions.streaming import Per, Window, windows
from moleblend_fs.shared_options import Precision, check_precision
from moleblend_fs.sources.molecules_to_predict import Incoming

Level = Literal["graph", "mean", "atom", "distances"]
LEVELS: Mapping[str, Per] = {"graph": "molecule", "mean": "molecule", "atom": "atom", "distances": "pair"}
"""What representations are of, and what there is one of."""


class Represents(Protocol):
    """A model that gives representations.

    Attributes:
        described: what it was trained on. inputs: what it reads. width: numbers of a molecule or atom. device: where it runs.
    """

    @property
    def described(self) -> Described: ...

    inputs: str
    width: int
    device: str

    def computing(self, level: str, tokens: int, precision: str) -> Computing:
        """The model, ready to be given batches; UserError where it does not give this level, or this precision."""


class Embedder(Reader):
    """Representations of molecules by a pretrained or finetuned model. Arguments that are not told here are those of `Predictor`.

    Args:
        path: checkpoint, a folder of `moleblend finetune`, a file of `moleblend export`, or a name of published weights.
        inputs: of `data.model_description.INPUTS`; by default those of a finetuned model, else "2d".
        layer: after how many blocks; 0 is what goes into the first. All by default.
        member: which model of a folder.
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
        precision: Precision = "float32",
        workers: int | None = None,
        hydrogens: str | None = None,
        allow_differences: Iterable[str] = (),
        row_timeout: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ):
        super().__init__(workers, hydrogens, allow_differences, row_timeout, tell)
        if inputs is not None and inputs not in INPUTS:
            raise UserError(f"inputs must be one of {', '.join(INPUTS)}, got {inputs!r}")
        self.model = opened(path, member=member, inputs=inputs, layer=layer, device=device)
        self.device, self.inputs, self.width = self.model.device, self.model.inputs, self.model.width
        self._tokens, self._precision = max_tokens, check_precision(precision)
        self._forwards: dict[str, Computing] = {}

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads."""
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()

    def forward(self, level: Level) -> Computing:
        """What computes a level."""
        if level not in LEVELS:
            raise UserError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if level not in self._forwards:
            self._forwards[level] = self.model.computing(level, self._tokens, self._precision)
        return self._forwards[level]

    def windows(self, incoming: Incoming, level: Level) -> Iterator[Window]:
        """Rows with what was read off, part by part."""
        return self.read_off(self._rows(incoming, self.model.described, self.inputs, "embed"), level)

    def read_off(self, made: Iterator[list[Made]], level: Level) -> Iterator[Window]:
        """The same of rows whose molecules are made."""
        return windows(made, self.forward(level), per=LEVELS[level])

    def __call__(self, molecules: Molecules, level: Level = "graph") -> Any:
        """Representations, float32.

        Args:
            molecules: see `Predictor.predict`.
            level: "graph" for the graph token's, "mean" for the mean of the atoms', "atom" for each atom's; "distances" for predicted
                distances between all atoms in Angstrom, of models that have such a head.

        Returns:
            (n, d) for "graph" and "mean", NaN where there is no molecule, or the model's output is not finite. Else a list of n arrays,
            (atoms, d) or (atoms, atoms), or None there; atoms stand in the order of the SMILES or RDKit molecule, hydrogens that were
            added after them.
        """
        incoming, found = taken(molecules), list[np.ndarray | None]()
        for window in self.windows(incoming, level):
            for values, atoms in zip(window.values, window.num_atoms.tolist(), strict=True):
                each = shaped(None if values is None or not np.isfinite(values[0]).all() else values[0], atoms, level)
                order = None if each is None or LEVELS[level] == "molecule" else incoming.atom_order(len(found), atoms)
                found.append(each if order is None else in_order(each, np.argsort(order), level))
        if LEVELS[level] != "molecule":
            return found
        missing = np.full(self.width, np.nan, dtype=np.float32)
        return np.stack([missing if each is None else each for each in found]) if found else np.zeros((0, self.width), np.float32)


def in_order(values: np.ndarray | None, order: np.ndarray, level: Level) -> np.ndarray | None:
    """Atoms' rows, or all pairs' distances, with the atoms in another order."""
    return None if values is None else values[np.ix_(order, order)] if level == "distances" else values[order]


def shaped(values: np.ndarray | None, atoms: int, level: Level) -> np.ndarray | None:
    """What was read off of a molecule, as float32; distances as a matrix."""
    if values is None:
        return None
    return values.astype(np.float32).reshape(atoms, atoms) if level == "distances" else values.astype(np.float32)


def opened(path: str | os.PathLike, *, member: int, inputs: str | None, layer: int | None, device: str | None) -> Represents:
    """A checkpoint, a member of a run folder, or an exported model. Only what is needed to run it is imported."""
    try:
        if is_exported(path):
            from moleblend_fs.predictions.exported_model import ExportedRepresentations

            return ExportedRepresentations(path, member=member, inputs=inputs, layer=layer, device=device)
        from moleblend_fs.predictions.checkpoint_embeddings import CheckpointRepresentations

        return CheckpointRepresentations(path, member=member, inputs=inputs, layer=layer, device=device)
    except ModuleNotFoundError as error:
        raise not_installed(error, path) from error
