"""Scores of all methods on the splits of a data set as one array, after everything that cannot be compared was refused."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from moleblend_fs.comparison.score_lines import COSTS, PREFERRED, ScoreLine, is_higher_better
from moleblend_fs.errors import UserError
from moleblend_fs.wording import counted

MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """Scores on one data set.

    Attributes:
        dataset, metric, unit: what of. higher_is_better: of the metric.
        methods, splits: names of columns and rows, in the order in which they were read.
        values: (splits, methods), means over seeds.
        seeds: the largest number of runs of a method on a split.
        test_over_train: mean over splits of test molecules / training molecules; None where these are not known.
        costs: name of `COSTS` -> what a run of each method costs on average, NaN where that is not known.
    """

    dataset: str
    metric: str
    unit: str
    higher_is_better: bool
    methods: tuple[str, ...]
    splits: tuple[str, ...]
    values: np.ndarray
    seeds: int = 1
    test_over_train: float | None = None
    costs: dict[str, np.ndarray] = field(default_factory=dict)


def tables(
    lines: Sequence[ScoreLine], *, metric: str = "", higher: tuple[str, ...] = (), lower: tuple[str, ...] = ()
) -> tuple[list[ScoreTable], list[str]]:
    """(a table for each data set that two methods or more have, what should be said of the others).

    Args:
        metric: the score to compare; by default the one that each data set is usually compared by.
        higher, lower: scores that are better so, beyond those that are known.

    Raises:
        UserError: methods do not have the same splits, test molecules, labels or units, or no data set has two of them.
    """
    of_set: dict[str, list[ScoreLine]] = defaultdict(list)
    for line in lines:
        of_set[line.dataset].append(line)
    found, notes = [], []
    for dataset, here in of_set.items():
        chosen = _metric(dataset, here, metric)
        kept = [line for line in here if line.metric == chosen]
        _check_once(dataset, kept)
        methods = list(dict.fromkeys(line.method for line in kept))
        if len(methods) < 2:
            notes.append(f"{dataset}: only {methods[0]!r} was run on it ({kept[0].where}); nothing to compare it with")
            continue
        found.append(_table(dataset, chosen, kept, methods, is_higher_better(chosen, higher, lower)))
    if not found:
        raise UserError(
            "nothing can be compared: give two methods or more on the same splits of the same data\n"
            + "\n".join(f"  {note}" for note in notes[:20])
        )
    return found, notes


def _metric(dataset: str, lines: Sequence[ScoreLine], asked: str) -> str:
    """The one that was asked for, the preferred one, or the only one."""
    there = list(dict.fromkeys(line.metric for line in lines))
    if asked:
        if asked not in there:
            raise UserError(f"{dataset}: no {asked!r} among its scores, which are {', '.join(there)}")
        return asked
    chosen = next((name for name in PREFERRED if name in there), there[0])
    if chosen not in PREFERRED and len(there) > 1:
        raise UserError(f"{dataset}: several scores ({', '.join(there)}); choose one with --metric")
    return chosen


def _table(dataset: str, metric: str, lines: Sequence[ScoreLine], methods: list[str], higher_is_better: bool) -> ScoreTable:
    splits = list(dict.fromkeys(line.split for line in lines))
    _check_same(dataset, lines, "unit", lambda line: line.unit, "units of {a} and {b}: convert one of them")
    for split in splits:
        here = [line for line in lines if line.split == split]
        name = f"{dataset}, split {split}"
        _check_same(name, here, "test molecules or labels", lambda line: line.tested, "other test molecules or labels: pairs need the same")
        _check_same(name, here, "split", lambda line: line.split_into, "split in another way: give both the same --split-file, or seed")
        _check_same(name, here, "test size", lambda line: str(line.test or ""), "{a} and {b} test molecules: pairs need the same")
    cells: dict[tuple[str, str], list[ScoreLine]] = defaultdict(list)
    for line in lines:
        cells[line.split, line.method].append(line)
    _check_complete(dataset, cells, splits, methods)
    values = [[float(np.mean([line.value for line in cells[split, method]])) for method in methods] for split in splits]
    ratios = [line.test / line.train for line in lines if line.train and line.test]
    return ScoreTable(
        dataset=dataset,
        metric=metric,
        unit=next((line.unit for line in lines if line.unit), ""),
        higher_is_better=higher_is_better,
        methods=tuple(methods),
        splits=tuple(splits),
        values=np.array(values),
        seeds=max(map(len, cells.values())),
        test_over_train=float(np.mean(ratios)) if len(ratios) == len(lines) else None,
        costs=_costs(lines, methods),
    )


def _costs(lines: Sequence[ScoreLine], methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Of each kind that some line tells: (methods,) means over runs."""
    kinds = [name for name in COSTS if any(name in line.costs for line in lines)]
    said = {
        name: [[line.costs[name] for line in lines if line.method == method and name in line.costs] for method in methods] for name in kinds
    }
    return {name: np.array([np.mean(values) if values else np.nan for values in of_methods]) for name, of_methods in said.items()}


def _check_same(name: str, lines: Iterable[ScoreLine], what: str, of: Callable[[ScoreLine], str], told: str) -> None:
    """UserError where two lines that say it say different things."""
    said = [(line, value) for line in lines if (value := of(line))]
    other = next(((line, value) for line, value in said if value != said[0][1]), None)
    if other is not None:
        (first, a), (second, b) = said[0], other
        raise UserError(
            f"{name}: {first.method!r} and {second.method!r} cannot be compared, {told.format(a=a, b=b)} "
            f"(different {what}: {first.where}; {second.where})"
        )


def _check_once(dataset: str, lines: Iterable[ScoreLine]) -> None:
    """UserError where a method has two scores of one split and seed."""
    seen: dict[tuple[str, str, str], ScoreLine] = {}
    for line in lines:
        first = seen.setdefault((line.split, line.method, line.seed), line)
        if first is not line:
            raise UserError(
                f"{dataset}, split {line.split}: two scores of {line.method!r} ({first.where}; {line.where}); give methods different names "
                "(NAME=PATH), or repeated runs a column seed"
            )


def _check_complete(dataset: str, cells: dict[tuple[str, str], list[ScoreLine]], splits: list[str], methods: list[str]) -> None:
    missing = [(split, method) for method in methods for split in splits if (split, method) not in cells]
    if missing:
        named = ", ".join(f"{method!r} on {split}" for split, method in missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise UserError(
            f"{dataset}: different splits; of {counted(len(splits), 'split')} these lack: {named}{more}. Every method needs a score on "
            "every split"
        )
