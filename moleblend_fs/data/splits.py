"""Splits: which molecules train, which select the model, which test it. Deterministic given their options."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from moleblend_fs.errors import UserError

TRAIN, VALID, TEST = "train", "valid", "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitter:
    """How to split a store.

    Attributes:
        kind: "scaffold": whole Bemis-Murcko scaffolds, largest first, fill train, then valid, then test (Hu et al. 2020);
            "random": a permutation seeded by `seed`; "prescribed": as the source says; "none": everything is train.
        fractions: train, valid, test shares of "scaffold" and "random".
        seed: of "random".
        chirality: whether the scaffolds keep stereochemistry, as in public copies of Hu et al.'s code.
    """

    kind: Literal["scaffold", "random", "prescribed", "none"]
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    chirality: bool = True

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) < 0:
            raise UserError(f"--split-fractions must be three shares that sum to 1, got {self.fractions}")

    def describe(self) -> dict[str, Any]:
        """The options that shaped the split, for the manifest."""
        options = asdict(self)
        unused = {"scaffold": ("seed",), "random": ("chirality",)}.get(self.kind, ("fractions", "seed", "chirality"))
        return {name: value for name, value in options.items() if name not in unused}

    def __call__(self, *, rows: np.ndarray, prescribed: Sequence[str | None], scaffolds: Sequence[str | None]) -> dict[str, np.ndarray]:
        """Molecule indices of every split, ascending.

        Args:
            rows: (N,) source rows, used only to be independent of the store's order.
            prescribed: (N,) split names from the source.
            scaffolds: (N,) scaffold SMILES.
        """
        if self.kind == "none":
            return {TRAIN: np.arange(len(rows))}
        if self.kind == "prescribed":
            names = np.array([name or "" for name in prescribed])
            return {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist()) if name}
        if self.kind == "random":
            order = np.random.Generator(np.random.PCG64(self.seed)).permutation(len(rows))
            return self._cut(order)
        return self._scaffold(scaffolds)

    def _cut(self, order: np.ndarray) -> dict[str, np.ndarray]:
        valid, test = (round(share * len(order)) for share in self.fractions[1:])
        train = len(order) - valid - test
        parts = np.split(order, [train, train + valid])
        return {name: np.sort(part) for name, part in zip((TRAIN, VALID, TEST), parts, strict=True)}

    def _scaffold(self, scaffolds: Sequence[str | None]) -> dict[str, np.ndarray]:
        groups: dict[str, list[int]] = defaultdict(list)
        for index, scaffold in enumerate(scaffolds):
            if scaffold is None:
                raise ValueError("a scaffold split needs the scaffold of every molecule")
            groups[scaffold].append(index)
        # Larger groups first; among equal ones the group whose first molecule comes later (the order of Hu et al.'s code).
        ordered = sorted(groups.values(), key=lambda group: (len(group), group[0]), reverse=True)
        train_limit = self.fractions[0] * len(scaffolds)
        valid_limit = (self.fractions[0] + self.fractions[1]) * len(scaffolds)
        parts: dict[str, list[int]] = {TRAIN: [], VALID: [], TEST: []}
        for group in ordered:
            if len(parts[TRAIN]) + len(group) <= train_limit:
                parts[TRAIN] += group
            elif len(parts[TRAIN]) + len(parts[VALID]) + len(group) <= valid_limit:
                parts[VALID] += group
            else:
                parts[TEST] += group
        return {name: np.sort(np.array(part, dtype=np.int64)) for name, part in parts.items()}
