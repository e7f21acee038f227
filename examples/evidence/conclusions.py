"""What the comparison says in words: which method to take when, and which goals are reached. All of it follows from the rows."""

import statistics
from collections.abc import Sequence

from methods import DATA_SETS, METHODS, title_of
from results import Row, dataset_name

from moleblend_fs.checkpoint.weights_by_name import DEFAULT
from moleblend_fs.comparison.analysis import BETTER, Comparison, Overall
from moleblend_fs.comparison.output import number
from moleblend_fs.comparison.score_lines import is_higher_better
from moleblend_fs.wording import counted

FOREST, CHEMPROP, SCRATCH = (METHODS[name].title for name in ("ecfp_forest", "chemprop", "scratch"))
SIX = ("esol", "freesolv", "lipo", "bbbp", "bace", "clintox")
GOALS = {"esol": 0.78, "freesolv": 1.75, "lipo": 0.60, "bbbp": 0.72, "bace": 0.84, "clintox": 0.90}
"""Of protocol A: at most (RMSE), at least (ROC-AUC)."""
BETTER_ON = 4
"""Sets of the six on which pretrained should be better than from scratch."""
KINDS = {"regression": "quantities", "classification": "classes"}


def ours_of(rows: Sequence[Row], key: str = "finetuned") -> str:
    """What tables call ours finetuned from the default weights, or from the first that there are; "" where nothing was finetuned."""
    names = sorted({row["weights"] for row in rows if row["key"] == key}, key=lambda name: (name != DEFAULT, name))
    return title_of(key, names[0]) if names else ""


def first_paragraph(of_b: Sequence[Comparison], rows: Sequence[Row]) -> str:
    """When to take ours, ECFP with a forest, or chemprop.

    Args:
        of_b: protocol B of the six sets, cleaned.
    """
    mine = ours_of(rows) or (SCRATCH if any(row["key"] == "scratch" for row in rows) else "")
    there = [name for name in (FOREST, CHEMPROP, mine) if name and any(name in each.table.methods for each in of_b)]
    if mine not in there:
        return (
            "Ours has not all of its runs under protocol B: nothing is said here, with an interval, on when to take it. "
            f"{single_split(rows, mine)}"
        ).strip()
    both = [each for each in of_b if mine in each.table.methods and len(set(there) & set(each.table.methods)) > 1]
    told = [
        advice(of_kind, there, what)
        for kind, what in KINDS.items()
        if (of_kind := [each for each in both if each.table.higher_is_better == (kind == "classification")])
    ]
    compared = [pair_told(of_b, mine, other) for other in there if other != mine]
    lacks = [name for name in (FOREST, CHEMPROP) if name not in there]
    unknown = f" How it stands to {' and '.join(lacks)} is not known: protocol B lacks runs of that." if lacks else ""
    return f"{' '.join(told)} By protocol B, {mine} is {'; '.join(compared)}.{unknown}"


def advice(of_b: Sequence[Comparison], names: Sequence[str], what: str) -> str:
    """Of the named methods, cheapest first, the one to take: the first that is worse than no other on any set, else none."""
    lost: dict[str, list[str]] = {name: [] for name in names}
    for each in of_b:
        for first in names:
            for second in names:
                if first != second and wins(each, first, second):
                    lost[second].append(f"{set_of(each)} ({first})")
    best = next((name for name in names if not lost[name]), None)
    if best is None:
        said = "; ".join(f"{name} is beaten on {', '.join(dict.fromkeys(where))}" for name, where in lost.items())
        return f"For {what} no method is the best choice everywhere: {said}."
    beaten, rest = ([name for name in names if bool(lost[name]) is lose] for lose in (True, False))
    reasons = [f"{name} is worse than another on {', '.join(dict.fromkeys(lost[name]))}" for name in beaten]
    if len(rest) > 1:
        those = "the others" if beaten else "those that were compared"
        reasons.append(f"none of {those} is told to be worse than another on any set, and it is the cheapest")
    few = " One set is little to go by." if len(of_b) == 1 else ""
    return f"For {what} ({', '.join(map(set_of, of_b))}) take {best}: {'; '.join(reasons)}.{few}"


def pair_told(of_b: Sequence[Comparison], mine: str, other: str) -> str:
    """On which sets one is better, worse, or not told apart by more than matters."""
    sets: dict[str, list[str]] = {"better": [], "worse": [], "neither": []}
    for each in of_b:
        if mine in each.table.methods and other in each.table.methods:
            verdict = "better" if wins(each, mine, other) else "worse" if wins(each, other, mine) else "neither"
            sets[verdict].append(set_of(each))
    return f"better than {other} on {_listed(sets['better'])}, worse on {_listed(sets['worse'])}, neither on {_listed(sets['neither'])}"


def wins(each: Comparison, first: str, second: str) -> bool:
    """Whether one is better than the other by more than matters, beyond doubt."""
    names = each.table.methods
    if first not in names or second not in names:
        return False
    pair = each.pair(names.index(first), names.index(second))
    return pair.verdict == BETTER and pair.winner == names.index(first)


def set_of(each: Comparison) -> str:
    """Name of its data set alone."""
    return next(about.title for about in DATA_SETS.values() if each.table.dataset.startswith(f"{about.title}, "))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no set"


def single_split(rows: Sequence[Row], mine: str) -> str:
    """Means of protocol A, which have no interval over splits."""
    if not mine:
        return ""
    ahead, known = [], 0
    for name in SIX:
        a, b = (means(rows, name, "cleaned", title) for title in (mine, FOREST))
        if a and b:
            known += 1
            best = statistics.fmean(a) > statistics.fmean(b) if higher(name) else statistics.fmean(a) < statistics.fmean(b)
            ahead += [DATA_SETS[name].title] if best else []
    if not known:
        return ""
    return (
        f"On the single scaffold split of protocol A {mine} has the better mean score of the two on {_listed(ahead)}, of "
        f"{counted(known, 'set')}; one split does not tell which is better."
    )


def higher(data: str) -> bool:
    """Whether more of a set's score is better."""
    return is_higher_better(DATA_SETS[data].metric)


def means(rows: Sequence[Row], data: str, version: str, title: str) -> list[float]:
    """Scores of a method's seeds under protocol A."""
    name = dataset_name(data, version, "A")
    return [float(row["value"]) for row in rows if row["dataset"] == name and row["method"] == title]


def goals(rows: Sequence[Row], of_b: Sequence[Comparison], ranks: Overall | None) -> list[list[str]]:
    """A line for each goal: what, what is asked, what was found, reached or by how much not."""
    mine, lines = ours_of(rows), []
    for name, goal in GOALS.items():
        about, more = DATA_SETS[name], higher(name)
        version = "original" if means(rows, name, "original", mine) else "cleaned"
        found = means(rows, name, version, mine)
        what = f"{about.title}, {about.metric}, protocol A, {version}, {mine or 'ours, finetuned'}"
        asked = f"{'at least' if more else 'at most'} {goal:g}"
        if not found:
            lines.append([what, asked, "not run", "open"])
            continue
        value = statistics.fmean(found)
        short = goal - value if more else value - goal
        spread = f" ± {statistics.stdev(found):.2g} over {counted(len(found), 'seed')}" if len(found) > 1 else ""
        lines.append([what, asked, f"{value:.3f}{spread}", "reached" if short <= 0 else f"missed by {number(short, 2)}"])
    return [*lines, _first_in_rank(ranks), _better_than_scratch(of_b, mine)]


def _first_in_rank(ranks: Overall | None) -> list[str]:
    what, asked = "mean rank of all methods over the sets, protocol B", "ours is first"
    mine = [i for i, name in enumerate(ranks.methods) if name.startswith("ours")] if ranks is not None else []
    if ranks is None or not mine:
        return [what, asked, "not run", "open"]
    best = min(mine, key=lambda i: ranks.mean_ranks[i])
    place = 1 + int((ranks.mean_ranks < ranks.mean_ranks[best]).sum())
    found = f"{ranks.methods[best]}: {ranks.mean_ranks[best]:.2f}, place {place} of {len(ranks.methods)}"
    behind = ranks.mean_ranks[best] - ranks.mean_ranks.min()
    return [what, asked, found, "reached" if place == 1 else f"missed by {behind:.2f}"]


def _better_than_scratch(of_b: Sequence[Comparison], mine: str) -> list[str]:
    what, asked = "pretrained better than from scratch beyond the interval, protocol B", f"on at least {BETTER_ON} of {len(SIX)} sets"
    both = [each for each in of_b if {mine, SCRATCH} <= set(each.table.methods)]
    if not both:
        return [what, asked, "not run", "open"]
    won = [set_of(each) for each in both if wins(each, mine, SCRATCH)]
    lost = [set_of(each) for each in both if wins(each, SCRATCH, mine)]
    found = f"better on {_listed(won)}, worse on {_listed(lost)}, of {counted(len(both), 'set')} with both"
    return [what, asked, found, "reached" if len(won) >= BETTER_ON else f"missed by {counted(BETTER_ON - len(won), 'set')}"]
