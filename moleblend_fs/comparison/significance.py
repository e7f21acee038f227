"""Tests of scores on the same splits: repeated-measures ANOVA with Tukey's HSD, Friedman's test with Conover's and Holm's correction.

Shapes: S splits (blocks), M methods (treatments). Splits of the same molecules overlap in what is trained on, so that the variance of a
mean over splits is s^2 (1 / S + r) and not s^2 / S, where r = test molecules / training molecules (Nadeau and Bengio, Mach. Learn. 52,
239, 2003). `overlap` is that r, or 0 for none; of two methods the F test with it is their corrected t test.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05
MOST_UNEQUAL = 9.0
"""Largest over smallest variance of the methods that ANOVA is trusted with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Omnibus:
    """Whether any method differs from the others.

    Attributes:
        name: of the test. statistic, p: its own. freedom: its degrees of freedom.
        effect_name, effect: how large the differences are together.
    """

    name: str
    statistic: float
    freedom: tuple[float, ...]
    p: float
    effect_name: str
    effect: float


@dataclass(frozen=True, slots=True)
class Variance:
    """Two-way analysis of variance of (S, M) scores without interaction: splits are blocks.

    Attributes:
        error: mean square of what neither split nor method explains. freedom: its degrees of freedom, (S - 1) (M - 1).
        between: sum of squares of the methods. within: that of the error.
        of_mean: variance of a method's mean over splits apart from what the splits share: error (1 / S + overlap).
    """

    error: float
    freedom: int
    between: float
    within: float
    of_mean: float


def variance(values_SM: np.ndarray, overlap: float = 0.0) -> Variance:
    """Of scores; at least two splits and two methods."""
    splits, methods = values_SM.shape
    residual = residuals(values_SM)
    within = float(np.square(residual).sum())
    if within <= 1e-24 * float(np.square(values_SM).sum()):  # differences that are the same on all splits, but for rounding
        within = 0.0
    between = splits * float(np.square(values_SM.mean(axis=0) - values_SM.mean()).sum())
    if between <= 1e-24 * float(np.square(values_SM).sum()):
        between = 0.0
    freedom = (splits - 1) * (methods - 1)
    error = within / freedom
    return Variance(error, freedom, between, within, error * (1 / splits + overlap))


def residuals(values_SM: np.ndarray) -> np.ndarray:
    """(S, M) what is left of scores without the means of splits and of methods."""
    return values_SM - values_SM.mean(axis=0) - values_SM.mean(axis=1, keepdims=True) + values_SM.mean()


def assumptions(values_SM: np.ndarray) -> tuple[float, float]:
    """(p of Shapiro and Wilk's test that residuals are normal, largest over smallest variance of the methods); NaN where undefined.

    The ratio is infinite where one method's score is the same on all splits and another's is not.

    Of two methods it is the differences that are to be normal; their residuals are these twice, with either sign.
    """
    residual = residuals(values_SM).ravel() if values_SM.shape[1] > 2 else values_SM[:, 0] - values_SM[:, 1]
    normal = float(stats.shapiro(residual).pvalue) if len(residual) >= 3 and np.ptp(residual) > 0 else math.nan
    spread = values_SM.var(axis=0, ddof=1)
    if spread.max() == 0:
        return normal, math.nan
    return normal, float(spread.max() / spread.min()) if spread.min() > 0 else math.inf


def repeated_anova(values_SM: np.ndarray, overlap: float = 0.0) -> Omnibus:
    """F test of one factor, the method, measured on every split; partial eta squared. Of two methods it is the square of the paired t."""
    splits, methods = values_SM.shape
    found = variance(values_SM, overlap)
    # F = S sum_M (mean_M - mean)^2 / (M - 1) / error, where error / S becomes the variance of a mean under overlap
    between = found.between / splits / (methods - 1)
    statistic = between / found.of_mean if found.of_mean else math.inf if between else 0.0
    p = float(stats.f.sf(statistic, methods - 1, found.freedom))
    total = found.between + found.within
    effect = found.between / total if total else 0.0
    return Omnibus(
        name="repeated-measures ANOVA",
        statistic=statistic,
        freedom=(methods - 1, found.freedom),
        p=p,
        effect_name="partial eta squared",
        effect=effect,
    )


def tukey_p(values_SM: np.ndarray, overlap: float = 0.0) -> np.ndarray:
    """(M, M) p of Tukey's HSD for every pair, with the ANOVA's error: all of them together are wrong in at most 5 % of cases."""
    found, mean = variance(values_SM, overlap), values_SM.mean(axis=0)
    difference = np.abs(mean[:, None] - mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(difference > 0, difference / math.sqrt(found.of_mean) if found.of_mean else np.inf, 0.0)
    p = np.where(np.isinf(q), 0.0, stats.studentized_range.sf(np.where(np.isinf(q), 0.0, q), values_SM.shape[1], found.freedom))
    return np.clip(p, 0, 1)


def tukey_margin(values_SM: np.ndarray, overlap: float = 0.0, level: float = 0.95) -> float:
    """Half the width of the simultaneous intervals of all differences between two methods."""
    found = variance(values_SM, overlap)
    return float(stats.studentized_range.ppf(level, values_SM.shape[1], found.freedom)) * math.sqrt(found.of_mean)


def ranks(values_SM: np.ndarray, *, higher_is_better: bool) -> np.ndarray:
    """(S, M) rank of each method on each split, 1 the best, means where they are equal."""
    return stats.rankdata(-values_SM if higher_is_better else values_SM, axis=1)


def friedman(values_SM: np.ndarray) -> Omnibus:
    """Chi-squared of Friedman's test and Kendall's W; of two methods Wilcoxon's signed-rank test, and the rank-biserial correlation."""
    splits, methods = values_SM.shape
    if methods == 2:
        return _wilcoxon(values_SM[:, 0] - values_SM[:, 1])
    if np.all(np.ptp(values_SM, axis=1) == 0):
        return Omnibus(name="Friedman's test", statistic=0.0, freedom=(methods - 1,), p=1.0, effect_name="Kendall's W", effect=0.0)
    found = stats.friedmanchisquare(*values_SM.T)
    statistic = float(found.statistic)
    return Omnibus(
        name="Friedman's test",
        statistic=statistic,
        freedom=(methods - 1,),
        p=float(found.pvalue),
        effect_name="Kendall's W",
        effect=statistic / (splits * (methods - 1)),
    )


def _wilcoxon(difference: np.ndarray) -> Omnibus:
    kept = difference[difference != 0]
    order = stats.rankdata(np.abs(kept)) if len(kept) else np.zeros(0)
    total = float(order.sum())
    correlation = float((order * np.sign(kept)).sum()) / total if total else 0.0
    statistic = float(min(order[kept > 0].sum(), order[kept < 0].sum()))
    p = float(stats.wilcoxon(kept).pvalue) if len(kept) else 1.0
    return Omnibus(
        name="Wilcoxon's signed-rank test",
        statistic=statistic,
        freedom=(),
        p=p,
        effect_name="rank-biserial correlation",
        effect=correlation,
    )


def rank_lead(values_SM: np.ndarray, first: int, second: int) -> float:
    """By how much the first method has the larger scores, as the rank test sees it: of two methods the rank-biserial correlation, else
    the difference of mean ranks."""
    if values_SM.shape[1] == 2:
        return _wilcoxon(values_SM[:, first] - values_SM[:, second]).effect
    rank = stats.rankdata(values_SM, axis=1).mean(axis=0)
    return float(rank[first] - rank[second])


def conover_p(values_SM: np.ndarray) -> np.ndarray:
    """(M, M) p of Conover's comparisons after Friedman's test, two-sided, not yet corrected for their number.

    t = |R_i - R_j| / sqrt(2 (S A - sum R^2) / ((S - 1) (M - 1))), R sums of ranks, A the sum of their squares (Conover, Practical
    Nonparametric Statistics, 1999, section 5.8).
    """
    splits, methods = values_SM.shape
    rank = stats.rankdata(values_SM, axis=1)
    total = rank.sum(axis=0)
    freedom = (splits - 1) * (methods - 1)
    scale = 2 * (splits * np.square(rank).sum() - np.square(total).sum()) / freedom
    difference = np.abs(total[:, None] - total)
    if scale <= 1e-12:  # the same order on every split
        return np.where(difference > 0, 0.0, 1.0)
    return np.clip(2 * stats.t.sf(difference / math.sqrt(scale), freedom), 0, 1)


def holm(p: np.ndarray) -> np.ndarray:
    """(n,) p values corrected for being n, by Holm's step-down method."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1)
    return result


def nemenyi_distance(methods: int, blocks: int, level: float = 0.95) -> float:
    """Critical difference of mean ranks, q sqrt(M (M + 1) / 12 S) (Demsar, JMLR 7, 1, 2006, whose q is divided by the root of 2)."""
    return float(stats.studentized_range.ppf(level, methods, math.inf)) * math.sqrt(methods * (methods + 1) / (12 * blocks))


def paired_interval(difference_S: np.ndarray, overlap: float = 0.0, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of paired differences by Student's t; at least two splits."""
    count, mean = len(difference_S), float(difference_S.mean())
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * math.sqrt(float(difference_S.var(ddof=1)) * (1 / count + overlap))
    return mean - half, mean + half


def cohens_d(first_S: np.ndarray, second_S: np.ndarray) -> float:
    """Difference of means in units of the methods' pooled standard deviation over splits; NaN where it is 0."""
    pooled = math.sqrt((float(first_S.var(ddof=1)) + float(second_S.var(ddof=1))) / 2)
    return float(first_S.mean() - second_S.mean()) / pooled if pooled else math.nan


def paired_d(difference_S: np.ndarray) -> float:
    """Mean of paired differences in units of their own standard deviation (d_z); NaN where it is 0."""
    spread = float(difference_S.std(ddof=1))
    return float(difference_S.mean()) / spread if spread else math.nan
