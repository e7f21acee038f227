"""Counts in messages: one thing is one thing."""

import pytest

from moleblend_fs.wording import counted, verb


@pytest.mark.parametrize(("count", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12345, "12,345 rows")])
def test_things(count, said):
    assert counted(count, "row") == said


def test_irregular_plurals_and_verbs():
    assert [counted(n, "row is", "rows are") for n in (0, 1, 2)] == ["0 rows are", "1 row is", "2 rows are"]
    assert [verb(n, "has", "have") for n in (0, 1, 2)] == ["have", "has", "have"]
