"""Counts in messages: one thing is one thing."""

import pytest

from moleblend_fs.wording import counted, verb, with_decimals


@pytest.mark.parametrize(("count", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12345, "12,345 rows")])
def test_things(count, said):
    assert counted(count, "row") == said


def test_irregular_plurals_and_verbs():
    assert [counted(n, "row is", "rows are") for n in (0, 1, 2)] == ["0 rows are", "1 row is", "2 rows are"]
    assert [verb(n, "has", "have") for n in (0, 1, 2)] == ["have", "has", "have"]


def test_numbers_keep_digits_of_their_own():
    """A score of 0.00000035 was told as 0.0000."""
    told = {0.0: "0.0000", 0.65432: "0.6543", -12.3: "-12.3000", 0.0012: "0.0012", 3.456e-4: "0.000346", 3.5e-7: "3.5e-07"}
    assert {value: with_decimals(value, 4) for value in told} == told
