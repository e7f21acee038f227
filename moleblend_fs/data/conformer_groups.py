"""Rows of a source that hold structures of the same molecule become conformers of one molecule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.record import decode, encode
from moleblend_fs.wording import counted, verb

JOINED = "conformers of a molecule of another row"
"""How rows that became part of an earlier one are counted."""
NO_CONFORMER = -1


def conformer_of(row: int) -> str:
    """What is said of a row that became part of an earlier one."""
    return f"a conformer of the molecule of row {row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What a row says that may be one of several conformers.

    Attributes:
        name: the same for rows with the same graph, their canonical SMILES; rows of different names are different molecules.
        order: (n,) the row's atoms in the order of that SMILES, so that atoms of different rows are matched.
    """

    name: str
    order: tuple[int, ...]


@dataclass(slots=True)
class Groups:
    """Which molecules of the working tables become one.

    Attributes:
        members: for each molecule of the store its indices in the tables, in the order of the rows.
        contradictions: rows whose labels differ from those that are kept, for failures.csv; found while joining.
        joined: (row, molecule of the store, which of its conformers) of each row that is not the first of its molecule; the conformer is
            `NO_CONFORMER` where the row has none; found while joining.
    """

    members: list[list[int]]
    contradictions: list[tuple[int, Failure]] = field(default_factory=list)
    joined: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def first(self) -> np.ndarray:
        """(molecules,) the member of each that it is known by."""
        return np.array([group[0] for group in self.members], dtype=np.int64)

    def note(self, labels: Sequence[LabelSpec]) -> list[str]:
        """What the user should know of it."""
        joined = [group for group in self.members if len(group) > 1]
        if not joined:
            return []
        told = (
            f"{sum(map(len, joined)):,} records are conformers of {counted(len(joined), 'molecule')}; --same-molecule "
            "apart keeps them apart"
        )
        if self.contradictions and labels:
            told += (
                f"; {len(self.contradictions):,} of them {verb(len(self.contradictions), 'has', 'have')} other labels "
                "than the first, which are kept: see failures.csv"
            )
        return [told]

    def join(
        self, molecule: int, record: Callable[[int], bytes], structures: Sequence[Structure | None], labels: Sequence[LabelSpec]
    ) -> bytes:
        """The record of a molecule: the graph, labels and atoms' order of its first member, the conformers of all that have one.

        A label that the first member lacks is the next one's that has it.
        """
        group = self.members[molecule]
        if len(group) == 1:
            return record(group[0])
        row, graph = decode(record(group[0]))
        values, conformers = graph.labels.copy(), list[np.ndarray]()
        first = _order(structures[group[0]])
        for index in group:
            other_row, other = decode(record(index))
            place = np.empty_like(first)
            place[first] = _order(structures[index])
            if index != group[0]:
                self.joined.append((other_row, molecule, NO_CONFORMER if other.coordinates is None else len(conformers)))
            conformers += [] if other.coordinates is None else list(other.coordinates[:, place])
            self._compare(values, other, other_row, row, labels)
        graph.labels, graph.coordinates = values, np.stack(conformers) if conformers else None
        return encode(graph, row)

    def _compare(self, values: np.ndarray, other: MolecularGraph, other_row: int, row: int, labels: Sequence[LabelSpec]) -> None:
        missing = np.isnan(values)
        values[missing] = other.labels[missing]
        different = ~np.isnan(other.labels) & (other.labels != values)
        if different.any():
            told = ", ".join(
                f"{labels[i].name} is {other.labels[i]:.10g}, there {values[i]:.10g}" for i in np.flatnonzero(different).tolist()
            )
            reason = f"{conformer_of(row)}, whose labels are kept: {told}"
            self.contradictions.append((other_row, Failure(input=other.smiles, reason=reason)))


def find_groups(structures: Sequence[Structure | None], splits: Sequence[str | None]) -> Groups:
    """Group molecules by the name of their structure; those that the source puts into different splits stay apart."""
    groups: dict[tuple[str, str | None], list[int]] = {}
    members: list[list[int]] = []
    for index, (structure, split) in enumerate(zip(structures, splits, strict=True)):
        group = None if structure is None else groups.get((structure.name, split))
        if group is None:
            members.append(group := [])
            if structure is not None:
                groups[structure.name, split] = group
        group.append(index)
    return Groups(members)


def _order(structure: Structure | None) -> np.ndarray:
    assert structure is not None
    return np.array(structure.order, dtype=np.int64)
