"""What predicts, whatever runs it: members of the same targets, and what is known of how far they are off."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from moleblend_fs.data.model_description import Described, FinetunedFor
from moleblend_fs.predictions.calibration import Calibration
from moleblend_fs.predictions.domain import Domain


class Computing(Protocol):
    """Models of the same inputs, ready to be given batches, which threads compute.

    Attributes:
        inputs: of `data.model_description.INPUTS`.
    """

    inputs: str

    def batches(self, num_atoms: np.ndarray) -> list[np.ndarray]:
        """Places of molecules that go together; each place once."""

    def submit_records(self, records: Sequence[bytes]) -> "Future[np.ndarray]":
        """Begin to compute a batch; (models, molecules, atoms or pairs, k) float64 when it is done."""

    def close(self) -> None:
        """End the threads."""

    def __enter__(self) -> "Computing": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Predictive(ABC):
    """Models that predict the same targets from the same inputs.

    Attributes:
        path: what was given.
        abouts: what each member is for; they differ in nothing but what outputs are scaled by.
        described: what they were trained on.
        files: all files that predictions depend on.
        calibration: of a run folder, or None.
    """

    path: Path
    abouts: tuple[FinetunedFor, ...]
    described: Described
    files: tuple[Path, ...]
    calibration: Calibration | None = None

    @property
    def about(self) -> FinetunedFor:
        """Targets, kinds, units and inputs; mean and standard deviation are the first member's."""
        return self.abouts[0]

    def sha256(self) -> str:
        """Of all its files' contents: equal models give equal predictions."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @abstractmethod
    def device(self, asked: str | None) -> str:
        """Where it is to run; UserError where it cannot run there."""

    @abstractmethod
    def computing(self, device: str, tokens: int, precision: str = "float32") -> Computing:
        """Its members, ready to be given batches of so many tokens at most.

        Args:
            precision: "float32" or "bf16", of large matrix products; UserError where it has no other than float32.
        """

    @abstractmethod
    def domain(self) -> Domain | None:
        """The molecules that it was trained on, or None where they are not known."""
