"""Every number against a published example, or against another library's of the same data (values below: statsmodels 0.15, scikit-posthocs
0.17, pingouin 0.7)."""

import numpy as np
import pytest
from scipy import stats

from moleblend_fs.comparison import significance as tests

PRINTED = """
5.40 5.50 5.55 5.85 5.70 5.75 5.20 5.60 5.50 5.55 5.50 5.40 5.90 5.85 5.70 5.45 5.55 5.60 5.40 5.40 5.35 5.45
5.50 5.35 5.25 5.15 5.00 5.85 5.80 5.70 5.25 5.20 5.10 5.65 5.55 5.45 5.60 5.35 5.45 5.05 5.00 4.95 5.50 5.50
5.40 5.45 5.55 5.50 5.55 5.55 5.35 5.45 5.50 5.55 5.50 5.45 5.25 5.65 5.60 5.40 5.70 5.65 5.55 6.30 6.30 6.25
"""
ROUNDING = np.array(PRINTED.split(), dtype=float).reshape(22, 3)
"""Hollander and Wolfe, Nonparametric Statistical Methods, table 7.1: seconds of 22 players by three ways of rounding first base."""
SCORES = np.array(
    [[0.81, 0.86, 1.02, 0.90], [0.74, 0.88, 0.97, 0.83], [0.92, 0.91, 1.15, 0.99], [0.68, 0.80, 0.96, 0.84], [0.79, 0.83, 1.1, 0.8]]
)
SLEEP = np.array([[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]]).T
"""Student's sleep data: two drugs, ten patients."""
PAIRS = np.triu_indices(4, 1)


def test_friedman_as_published():
    found = tests.friedman(ROUNDING)
    assert (found.statistic, found.p) == pytest.approx((11.1429, 0.003805), rel=1e-4)  # R's manual of friedman.test
    assert found.effect == pytest.approx(0.2532467532467532)


def test_paired_t_as_published():
    """Two methods: F is t^2 of R's manual of t.test, t = -4.0621, 9 degrees of freedom, p = 0.002833, 95 % from -2.4599 to -0.7001."""
    found = tests.repeated_anova(SLEEP)
    assert (found.statistic, found.p, found.freedom) == (pytest.approx(4.0621**2, rel=1e-4), pytest.approx(0.002833, rel=1e-3), (1, 9))
    assert tests.paired_interval(SLEEP[:, 0] - SLEEP[:, 1]) == pytest.approx((-2.4598858, -0.7001142))
    assert tests.tukey_p(SLEEP)[0, 1] == pytest.approx(found.p, rel=1e-6)
    assert tests.tukey_margin(SLEEP) == pytest.approx((2.4598858 - 0.7001142) / 2, rel=1e-5)


def test_anova_is_statsmodels():
    found = tests.repeated_anova(SCORES)
    assert (found.statistic, found.p) == pytest.approx((31.042889390519168, 6.160907069004917e-06))
    assert found.freedom == (3, 12)
    assert tests.variance(SCORES).error == pytest.approx(0.0018458333333333332)
    assert found.effect == pytest.approx(0.1719 / (0.1719 + 0.02215))
    other = tests.repeated_anova(ROUNDING)
    assert (other.statistic, other.p) == pytest.approx((6.2883079157589075, 0.004084100722197294))


def test_tukey_is_statsmodels():
    """Its approximate range distribution agrees to three digits, between its bounds 0.001 and 0.9."""
    p = tests.tukey_p(SCORES)
    assert p[0, 1] == pytest.approx(0.11007645795544219, rel=2e-3)
    assert p[0, 3] == pytest.approx(0.04045245154405297, rel=2e-3)
    assert p[1, 3] > 0.9
    assert max(p[0, 2], p[1, 2], p[2, 3]) < 1e-3
    assert tests.tukey_p(ROUNDING)[[0, 1], [2, 2]] == pytest.approx([0.006641720662794004, 0.016725741304157826], rel=2e-3)
    assert tests.tukey_margin(SCORES) == pytest.approx(0.08068132540781231, rel=2e-4)


def test_conover_is_scikit_posthocs():
    p = tests.conover_p(SCORES)
    expected = [
        0.02791539957132524,
        1.4343521967634532e-05,
        0.004381869431748154,
        0.000726652921403692,
        0.33704905795358436,
        0.004381869431748154,
    ]
    assert p[PAIRS] == pytest.approx(expected)
    assert p == pytest.approx(p.T)
    assert p.diagonal().tolist() == [1] * 4
    corrected = [
        0.05583079914265048,
        8.60611318058072e-05,
        0.017527477726992615,
        0.00363326460701846,
        0.33704905795358436,
        0.017527477726992615,
    ]
    assert tests.holm(p[PAIRS]) == pytest.approx(corrected)
    tied = tests.conover_p(ROUNDING)
    assert tied[[0, 0, 1], [1, 2, 2]] == pytest.approx([0.3012090214393702, 0.000691453476085363, 0.012282857347898928])


def test_holm_as_r_does():
    assert tests.holm(np.array([0.01, 0.02, 0.03, 0.005])) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert tests.holm(np.array([0.6, 0.7])).tolist() == [1, 1]


def test_nemenyi_is_demsars():
    """His table 5: q = 2.343, 2.569, 2.728 for 3, 4, 5 classifiers; his example, 4 on 14 data sets, has CD = 1.25."""
    for methods, q in ((3, 2.343), (4, 2.569), (5, 2.728)):
        assert tests.nemenyi_distance(methods, 1) == pytest.approx(q * np.sqrt(methods * (methods + 1) / 6), abs=2e-3)
    assert tests.nemenyi_distance(4, 14) == pytest.approx(1.25, abs=5e-3)


def test_corrected_t_of_nadeau_and_bengio():
    """t = mean / sqrt(s^2 (1 / n + n_test / n_train)), by hand; the F test and Tukey's are the same for two methods."""
    first, second = SCORES[:, 0], SCORES[:, 1]
    difference = first - second
    t = difference.mean() / np.sqrt(difference.var(ddof=1) * (1 / 5 + 1 / 4))
    found = tests.repeated_anova(SCORES[:, :2], 0.25)
    assert found.statistic == pytest.approx(t**2)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert tests.tukey_p(SCORES[:, :2], 0.25)[0, 1] == pytest.approx(found.p)
    low, high = tests.paired_interval(difference, 0.25)
    plain = tests.paired_interval(difference)
    assert (high - low) / (plain[1] - plain[0]) == pytest.approx(np.sqrt((1 / 5 + 1 / 4) * 5))
    assert (low + high) / 2 == pytest.approx(difference.mean())


def test_effect_sizes():
    assert tests.cohens_d(SCORES[:, 0], SCORES[:, 1]) == pytest.approx(-0.9714285714285724)
    difference = SCORES[:, 0] - SCORES[:, 1]
    assert tests.paired_d(difference) == pytest.approx(stats.ttest_1samp(difference, 0).statistic / np.sqrt(5))


def test_two_methods_by_ranks_are_wilcoxons():
    found = tests.friedman(SCORES[:, [0, 2]])
    assert (found.statistic, found.p) == (0.0, pytest.approx(0.0625))
    assert found.effect == -1
    assert tests.friedman(SLEEP).p == pytest.approx(stats.wilcoxon(*SLEEP.T).pvalue)


@pytest.mark.parametrize("splits", [2, 5])
@pytest.mark.parametrize("methods", [2, 4])
def test_scores_without_scatter(splits, methods):
    """The same on all splits, or always so much better: sure, not a division by zero."""
    level = np.arange(splits)[:, None] * np.ones(methods)
    same = tests.repeated_anova(level)
    assert (same.statistic, same.p) == (0, 1)
    assert np.all(tests.tukey_p(level) == 1)
    assert tests.friedman(level).p == 1
    assert np.all(tests.conover_p(level) == 1)
    apart = level + 0.1 * np.arange(methods)
    assert tests.repeated_anova(apart).p == 0
    assert np.all(tests.tukey_p(apart)[np.triu_indices(methods, 1)] == 0)
    assert np.all(tests.conover_p(apart)[np.triu_indices(methods, 1)] == 0)


def test_assumptions():
    normal, ratio = tests.assumptions(SCORES)
    assert normal == pytest.approx(0.9808877969603463)
    spread = SCORES.var(axis=0, ddof=1)
    assert ratio == pytest.approx(spread.max() / spread.min())
    assert tests.assumptions(SLEEP)[0] == pytest.approx(stats.shapiro(SLEEP[:, 0] - SLEEP[:, 1]).pvalue)
    assert np.isnan(tests.assumptions(SLEEP[:2])[0]), "two differences tell nothing of their distribution"
    steady = SCORES.copy()
    steady[:, 0] = 0.5  # as the majority's ROC-AUC
    assert tests.assumptions(steady)[1] == np.inf
    assert np.isnan(tests.assumptions(np.zeros((4, 3)) + np.arange(3))[1])
    assert tests.assumptions(ROUNDING)[0] == pytest.approx(0.013558046483129138)
