"""Splits: which molecules train, which select the model, which test it. Deterministic given their options."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from moleblend_fs.errors import UserError

TRAIN, VALID, TEST = "train", "valid", "test"
USUAL = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("valid", "val", "validation", "dev", "development"), VALID),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
"""Usual spellings, in lower case, of the three splits."""
LONGEST_NAME = 100
MOST_SPLITS = 100
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\,]")
"""A split names a file, and fairseq separates several by commas."""


def check_split_name(name: str, where: str) -> None:
    """UserError for what cannot be the name of a split."""
    if FORBIDDEN.search(name) or name in (".", "..") or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise UserError(
            f"{where} has the split {name[:40]!r}{'...' if len(name) > 40 else ''}; a split's name may have at most {LONGEST_NAME} bytes "
            "and no slash, backslash, comma or control character"
        )


class SplitNames:
    """From the texts of a column of splits to names: usual spellings stand for train, valid and test.

    Spellings are merged where that is certain: of "valid" and "dev" in one column, each keeps its name.

    Args:
        where: the column, for messages.
        found: its different texts.

    Attributes:
        note: what was renamed, in one sentence; "" for nothing.

    Raises:
        UserError: a text cannot be a split's name, or there are so many that the column is another one.
    """

    def __init__(self, where: str, found: Iterable[str]):
        names = sorted({text.strip() for text in found} - {""})
        if len(names) > MOST_SPLITS:
            raise UserError(f"{where} has {len(names)} different values, such as {names[0][:40]!r}; is it the column of splits?")
        for name in names:
            check_split_name(name, where)
        spellings: dict[str, set[str]] = defaultdict(set)
        for name in names:
            if (lower := name.lower()) in USUAL:
                spellings[USUAL[lower]].add(lower)
        self._names = {}
        for name in names:
            usual = USUAL.get(name.lower(), "")
            certain = usual and (len(spellings[usual]) == 1 or name.lower() == usual)
            self._names[name] = usual if certain else name
        renamed = [f"{name!r} as {new!r}" for name, new in self._names.items() if name != new]
        self.note = f"{where}: {', '.join(renamed)}" if renamed else ""

    def __call__(self, text: str) -> str | None:
        """The split's name; None for an empty text."""
        text = text.strip()
        return self._names.get(text, text) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitter:
    """How to split a store.

    Attributes:
        kind: "scaffold": whole Bemis-Murcko scaffolds, largest first, fill train, then valid, then test (Hu et al. 2020);
            "random": a permutation seeded by `seed`; "prescribed": as the source says; "none": everything is train.
        fractions: train, valid, test shares of "scaffold" and "random".
        seed: of "random".
        chirality: whether the scaffolds keep stereochemistry, as in public copies of Hu et al.'s code.
        together: whether "random" keeps equal molecules in one split.
    """

    kind: Literal["scaffold", "random", "prescribed", "none"]
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    chirality: bool = True
    together: bool = True

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) < 0:
            raise UserError(f"--split-fractions must be three shares that sum to 1, got {self.fractions}")

    def describe(self) -> dict[str, Any]:
        """The options that shaped the split, for the manifest."""
        options = asdict(self)
        unused = {"scaffold": ("seed", "together"), "random": ("chirality",)}.get(self.kind, ("fractions", "seed", "chirality", "together"))
        return {name: value for name, value in options.items() if name not in unused}

    def __call__(
        self,
        *,
        rows: np.ndarray,
        prescribed: Sequence[str | None],
        scaffolds: Sequence[str | None],
        keys: Sequence[str | None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Molecule indices of every split, ascending.

        Args:
            rows: (N,) source rows, used only to be independent of the store's order.
            prescribed: (N,) split names from the source.
            scaffolds: (N,) scaffold SMILES.
            keys: (N,) equal for equal molecules; None for one that is like no other.

        Raises:
            UserError: the source prescribes a name that no split can have.
        """
        if self.kind == "none":
            return {TRAIN: np.arange(len(rows))}
        if self.kind == "prescribed":
            names = np.array([name or "" for name in prescribed])
            for name in dict.fromkeys(names.tolist()):
                check_split_name(name, "the source")
            return {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist()) if name}
        if self.kind == "random":
            order = np.random.Generator(np.random.PCG64(self.seed)).permutation(len(rows))
            return self._cut(order, keys if self.together else None)
        return self._scaffold(scaffolds)

    def _cut(self, order: np.ndarray, keys: Sequence[str | None] | None) -> dict[str, np.ndarray]:
        """The first ones of an order are train, the next valid, the rest test; equal molecules follow the first of them.

        Without equal molecules the parts have the exact sizes; a group that lies across a border goes where its middle is.
        """
        _, valid_share, test_share = self.fractions
        valid, test = round(valid_share * len(order)), round(test_share * len(order))
        train = len(order) - valid - test
        groups: dict[object, list[int]] = {}
        for index in order.tolist():
            key = None if keys is None else keys[index]
            groups.setdefault(index if key is None else key, []).append(index)
        parts: dict[str, list[int]] = {TRAIN: [], VALID: [], TEST: []}
        begin = 0
        for group in groups.values():
            middle = begin + len(group) / 2
            parts[TRAIN if middle < train else VALID if middle < train + valid else TEST] += group
            begin += len(group)
        return {name: np.sort(np.array(part, dtype=np.int64)) for name, part in parts.items()}

    def _scaffold(self, scaffolds: Sequence[str | None]) -> dict[str, np.ndarray]:
        groups: dict[str, list[int]] = defaultdict(list)
        for index, scaffold in enumerate(scaffolds):
            if scaffold is None:
                raise ValueError("a scaffold split needs the scaffold of every molecule")
            groups[scaffold].append(index)
        # Larger groups first; among equal ones the group whose first molecule comes later (the order of Hu et al.'s code).
        ordered = sorted(groups.values(), key=lambda group: (len(group), group[0]), reverse=True)
        train_share, valid_share, _ = self.fractions
        train_limit, valid_limit = train_share * len(scaffolds), (train_share + valid_share) * len(scaffolds)
        parts: dict[str, list[int]] = {TRAIN: [], VALID: [], TEST: []}
        for group in ordered:
            if len(parts[TRAIN]) + len(group) <= train_limit:
                parts[TRAIN] += group
            elif len(parts[TRAIN]) + len(parts[VALID]) + len(group) <= valid_limit:
                parts[VALID] += group
            else:
                parts[TEST] += group
        return {name: np.sort(np.array(part, dtype=np.int64)) for name, part in parts.items()}
