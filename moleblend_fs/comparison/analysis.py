"""What a table of scores comes to: which test, every pair's difference with its interval, whether it matters, and ranks over data sets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from moleblend_fs.comparison import significance as tests
from moleblend_fs.comparison.score_lines import HIGHER, named
from moleblend_fs.comparison.tables import ScoreTable
from moleblend_fs.errors import UserError

BOUNDED, RELATIVE = 0.005, 0.02
"""Differences that matter where nobody says otherwise: of scores up to 1 (ROC-AUC: half a point), and of errors, as a share of the best."""
BETTER, SMALL, SAME, OPEN = "better", "better by less than matters", "the same for practical purposes", "not told apart"
Test = Literal["auto", "anova", "friedman"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the user may say.

    Attributes:
        test: "anova", "friedman", or "auto": by `assumptions`.
        thresholds: metric ("" for all) -> least difference that matters, as (value, whether it is a share of the best method's mean).
        correct_overlap: whether intervals and the ANOVA allow for splits whose training molecules overlap, where sizes are known.
    """

    test: Test = "auto"
    thresholds: Mapping[str, tuple[float, bool]] = field(default_factory=dict)
    correct_overlap: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two methods of a table, `first` minus `second`.

    Attributes:
        first, second: columns. difference: of means. low, high: its paired 95 % interval, None for one split.
        p: of the post-hoc test, corrected for the number of pairs. d, d_paired: Cohen's d, pooled and of the differences.
        verdict: of `first` over `second` where `winner` is `first`.
        winner: the column that is better beyond doubt, or None.
    """

    first: int
    second: int
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    d: float | None = None
    d_paired: float | None = None
    verdict: str = OPEN
    winner: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table with all that was computed of it.

    Attributes:
        table: the scores. threshold: the least difference that matters, in the metric's unit. threshold_told: where it is from.
        overlap: that was allowed for, 0 for none. omnibus, post_hoc, why: the tests, and why these; None, "" for one split.
        pairs: all, of columns i < j. mean_ranks: (methods,), 1 the best.
        margin: half the width of the simultaneous intervals of differences (ANOVA), or of mean ranks (Friedman).
    """

    table: ScoreTable
    threshold: float
    threshold_told: str
    overlap: float
    omnibus: tests.Omnibus | None
    post_hoc: str
    why: str
    pairs: tuple[Pair, ...]
    mean_ranks: np.ndarray
    margin: float | None

    def best_first(self) -> list[int]:
        """Columns, by their means."""
        mean = self.table.values.mean(axis=0)
        return np.argsort(-mean if self.table.higher_is_better else mean, kind="stable").tolist()

    def pair(self, first: int, second: int) -> Pair:
        """The pair of two columns as it is stored, i < j."""
        low, high = sorted((first, second))
        return next(pair for pair in self.pairs if (pair.first, pair.second) == (low, high))

    def wins(self, column: int) -> tuple[int, int]:
        """(methods that this one is better than, methods that are better than it), by more than matters."""
        mine = [pair for pair in self.pairs if column in (pair.first, pair.second) and pair.verdict == BETTER]
        won = sum(pair.winner == column for pair in mine)
        return won, len(mine) - won


def compare(table: ScoreTable, choices: Choices) -> Comparison:
    """All of it; of one split means and differences alone."""
    splits = len(table.splits)
    threshold, told = threshold_of(table, choices.thresholds)
    rank = tests.ranks(table.values, higher_is_better=table.higher_is_better).mean(axis=0)
    columns = list(combinations(range(len(table.methods)), 2))
    mean = table.values.mean(axis=0)
    if splits == 1:
        pairs = tuple(Pair(first=i, second=j, difference=float(mean[i] - mean[j])) for i, j in columns)
        return Comparison(
            table=table, threshold=threshold, threshold_told=told, overlap=0.0, omnibus=None, post_hoc="",
            why="one split only: no interval and no test can be given; repeat it (--folds 5 --repeats 5)", pairs=pairs,
            mean_ranks=rank, margin=None,
        )  # fmt: skip
    overlap = (table.test_over_train or 0.0) if choices.correct_overlap else 0.0
    parametric, why = chosen_test(table.values, choices.test)
    if parametric:
        omnibus, post_hoc = tests.repeated_anova(table.values, overlap), "Tukey's HSD"
        p = tests.tukey_p(table.values, overlap)[tuple(np.array(columns).T)]
        margin = tests.tukey_margin(table.values, overlap)
    else:
        omnibus = tests.friedman(table.values)
        margin = tests.nemenyi_distance(len(table.methods), splits) / 2
        if len(columns) == 1:
            post_hoc, p = "the same test", np.array([omnibus.p])
        else:
            post_hoc, p = "Conover's test with Holm's correction", tests.holm(tests.conover_p(table.values)[tuple(np.array(columns).T)])
    leads = [mean[i] - mean[j] if parametric else tests.rank_lead(table.values, i, j) for i, j in columns]
    each = zip(columns, p.tolist(), leads, strict=True)
    pairs = tuple(_pair(table, i, j, p_of_pair, lead, threshold, overlap) for (i, j), p_of_pair, lead in each)
    return Comparison(
        table=table, threshold=threshold, threshold_told=told, overlap=overlap, omnibus=omnibus, post_hoc=post_hoc, why=why, pairs=pairs,
        mean_ranks=rank, margin=margin,
    )  # fmt: skip


def chosen_test(values_SM: np.ndarray, asked: Test) -> tuple[bool, str]:
    """(whether ANOVA, why): as asked, or where residuals may be normal and no method scatters much more than another."""
    if asked != "auto":
        return asked == "anova", "asked for"
    normal, ratio = tests.assumptions(values_SM)
    said = f"residuals: Shapiro-Wilk p = {normal:.2g}; largest over smallest variance {ratio:.2g}"
    fine = not normal < tests.ALPHA and not ratio > tests.MOST_UNEQUAL
    limits = f"{tests.ALPHA:g} or more, and {tests.MOST_UNEQUAL:g} or less, make it ANOVA"
    return fine, f"{said} ({limits})"


def _pair(table: ScoreTable, i: int, j: int, p: float, lead: float, threshold: float, overlap: float) -> Pair:
    """Two methods. `lead`: by how much the first has the larger scores, as the test sees it; where means say otherwise, none is better."""
    first, second = table.values[:, i], table.values[:, j]
    difference = first - second
    mean = float(difference.mean())
    low, high = tests.paired_interval(difference, overlap)
    winner = None
    verdict = SAME if -threshold < low and high < threshold else OPEN
    if p < tests.ALPHA and mean * lead > 0:
        winner = i if (mean > 0) == table.higher_is_better else j
        verdict = BETTER if abs(mean) >= threshold else SMALL
    return Pair(
        first=i, second=j, difference=mean, low=low, high=high, p=p, d=tests.cohens_d(first, second), d_paired=tests.paired_d(difference),
        verdict=verdict, winner=winner,
    )  # fmt: skip


def threshold_of(table: ScoreTable, thresholds: Mapping[str, tuple[float, bool]]) -> tuple[float, str]:
    """(the least difference that matters in the metric's unit, how it was chosen)."""
    mean = table.values.mean(axis=0)
    best = abs(float(mean.max() if table.higher_is_better else mean.min()))
    given = thresholds.get(table.metric, thresholds.get(""))
    if given is not None:
        value, share = given
        return (value * best, f"{100 * value:g} % of the best mean, as asked") if share else (value, "as asked")
    if table.metric in HIGHER:
        percent = float(table.values.max()) > 1  # scores that end at 100
        value = 100 * BOUNDED if percent else BOUNDED
        return value, "the default for scores up to " + ("100" if percent else "1")
    return RELATIVE * best, f"the default, {100 * RELATIVE:g} % of the best mean"


def parse_thresholds(words: Sequence[str]) -> dict[str, tuple[float, bool]]:
    """[METRIC=]NUMBER or [METRIC=]NUMBER% of the command line; UserError for anything else."""
    found = {}
    for word in words:
        metric, equals, text = word.rpartition("=")
        share = text.endswith("%")
        try:
            value = float(text.removesuffix("%")) / (100 if share else 1)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf or (equals and not metric):
            raise UserError(f"--threshold {word}: give a number or a share, such as 0.01, 2%, rmse=2% or roc_auc=0.005")
        found[named(metric)] = (value, share)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """Ranks over data sets that all methods were run on (Demsar, JMLR 7, 1, 2006).

    Attributes:
        methods, datasets: whose mean ranks on which. mean_ranks: (methods,). statistic, p: of Friedman's test; None of two methods.
        distance: Nemenyi's critical difference of mean ranks at 95 %.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    mean_ranks: np.ndarray
    statistic: float | None
    p: float | None
    distance: float


def overall(comparisons: Sequence[Comparison]) -> Overall | None:
    """Of the data sets that have all methods that any has; None unless there are two or more."""
    methods = tuple(dict.fromkeys(method for each in comparisons for method in each.table.methods))
    full = [each for each in comparisons if set(each.table.methods) == set(methods)]
    if len(full) < 2:
        return None
    mean = np.array([[each.table.values.mean(axis=0)[each.table.methods.index(method)] for method in methods] for each in full])
    sign = np.array([1 if each.table.higher_is_better else -1 for each in full])
    rank = stats.rankdata(-mean * sign[:, None], axis=1)
    found = tests.friedman(-rank) if len(methods) > 2 else None
    return Overall(
        methods=methods,
        datasets=tuple(each.table.dataset for each in full),
        mean_ranks=rank.mean(axis=0),
        statistic=found.statistic if found else None,
        p=found.p if found else None,
        distance=tests.nemenyi_distance(len(methods), len(full)),
    )
