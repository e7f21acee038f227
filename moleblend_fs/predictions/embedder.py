"""Representations from Python: `from moleblend_fs import Embedder`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.errors import UserError
from moleblend_fs.inference.device import device_of
from moleblend_fs.inference.forward import Forward, ReadOff, atom_means, atom_tokens, distances, graph_tokens
from moleblend_fs.inference.predict import check_weights
from moleblend_fs.model.shown import MODALITIES
from moleblend_fs.predictions.api import TOKENS, Molecules, Reader, taken
from moleblend_fs.predictions.model import ABOUT, open_predictive
from moleblend_fs.predictions.windows import Per, Window
from moleblend_fs.sources.incoming import Incoming

Level = Literal["graph", "mean", "atom", "distances"]
LEVELS: Mapping[str, tuple[ReadOff, Per]] = {
    "graph": (graph_tokens, "molecule"),
    "mean": (atom_means, "molecule"),
    "atom": (atom_tokens, "atom"),
    "distances": (distances, "pair"),
}
"""What representations are of, how they are read off, and what there is one of."""


class Embedder(Reader):
    """Representations of molecules by a pretrained or finetuned model. Arguments that are not told here are those of `Predictor`.

    Args:
        path: checkpoint, or a folder of `moleblend finetune`.
        inputs: "2d", "3d" or "2d+3d"; by default those of a finetuned model, else "2d".
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
        workers: int | None = None,
        hydrogens: str | None = None,
        allow_differences: Iterable[str] = (),
        row_timeout: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ):
        super().__init__(workers, hydrogens, allow_differences, row_timeout, tell)
        self.device = device_of(device)
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
