"""Labels: what is a number, what is a class, what is missing, and what their columns say of their kind."""

import math

import numpy as np
import pytest

from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.errors import UserError
from moleblend_fs.sources.labels import UNSAID, ColumnSurvey, check_values, parse_label, read_class, read_labels, read_number

NUMBERS = {
    **{text: float(text) for text in ("1.5", "-2", "+3", ".5", "5.", "1e3", "1E-3", "0", "-0.0", "1e-51", "1.2e39", "-3200000.05")},
    " 7 ": 7.0,
    "0e5": 0.0,
    "0.000": 0.0,
}
MISSING = ["", " ", "NA", "n/a", "N.A.", "null", "NULL", "None", "nan", "NaN", "-nan", "-", "--", "\u2013", "?", "#N/A", "<NA>"]
UNREADABLE = {
    "1_5": "not a number",
    "\uff11\uff15": "not a number",  # digits, but not ours
    "\u0661": "not a number",
    "0x10": "not a number",
    "1e400": "out of range",
    "-1e400": "out of range",
    "1e101": "out of range",
    "1e-400": "too small",
    "1e-320": "out of range",
    "inf": "infinite",
    "-Infinity": "infinite",
    "1,5": "decimal point",
    "1.234,5": "not a number",
    ">10": "a bound",
    "<0.1": "a bound",
    "~5": "a bound",
    "\u22125": "U+2212",
    "True": "NAME:classification",
    "1.5D3": "not a number",
    "5 %": "not a number",
    "1 2": "not a number",
    "active": "not a number",
    "1.5\n2.5": "not a number",
}
CLASSES = {"0": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0, "FALSE": 0.0, "Yes": 1.0, "no": 0.0, "T": 1.0, "f": 0.0, " 1 ": 1.0}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_read_in_full(text):
    assert read_number(text) == NUMBERS[text]


@pytest.mark.parametrize("text", MISSING)
def test_what_means_missing_blanks_only_itself(text):
    assert math.isnan(read_number(text))
    assert math.isnan(read_class(text))
    values = read_labels(["1.5", text], [LabelSpec(name=name, unit="", kind="regression") for name in "ab"])
    np.testing.assert_array_equal(values, [1.5, np.nan])


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_no_number_fails_the_row_with_the_reason(text):
    reason = read_labels([text], [LabelSpec(name="y", unit="", kind="regression")])
    assert isinstance(reason, str)
    assert reason.startswith("label 'y' is ")
    assert UNREADABLE[text] in reason


@pytest.mark.parametrize("text", CLASSES)
def test_classes(text):
    assert read_class(text) == CLASSES[text]


@pytest.mark.parametrize("text", ["2", "-1", "0.5", "active", "1_0"])
def test_other_classes_fail_the_row(text):
    assert "a class must be 0" in read_labels([text], [LabelSpec(name="y", unit="", kind="classification")])


def test_values_of_any_source_are_checked():
    specs = [LabelSpec(name="y", unit="", kind="regression"), LabelSpec(name="c", unit="", kind="classification")]
    assert check_values(np.array([-3.2e6, 1.0]), specs) is None
    assert check_values(np.array([np.nan, np.nan]), specs) is None
    assert "infinite" in check_values(np.array([np.inf, 1.0]), specs)
    assert "out of range" in check_values(np.array([1e120, 1.0]), specs)
    assert "out of range" in check_values(np.array([1e-120, 1.0]), specs)
    assert "class must be" in check_values(np.array([0.0, -1.0]), specs)
    assert "1 label, expected 2" in check_values(np.zeros(1), specs)


def settled(texts, kind=UNSAID):
    survey = ColumnSurvey([LabelSpec(name="y", unit="", kind=kind)], "a.csv")
    for begin in range(0, len(texts), 7):  # in pieces, as files are read
        survey.add([[text] for text in texts[begin : begin + 7]])
    return survey.settle()[0].kind


GUESSABLE = {
    "measurements": ["0", "1", "0.37"],
    "integers": ["0", "1", "2", "3", "4", "5"],
    "few rows": ["1", "2", "3"],
    "missing": ["", "NA"],
    "mostly unreadable": ["1.0", ">10", "1,5", "True", "inf", "NA", ""],
    "a constant": ["7"] * 20,
}


@pytest.mark.parametrize("case", GUESSABLE)
def test_columns_that_can_only_be_regression(case):
    assert settled(GUESSABLE[case]) == "regression"


ASKED = {
    "0 and 1": ["0", "1", "1", ""],
    "as floats": ["0.0", "1.0", "NA"],
    "only 1": ["1", "1"],
    "booleans": ["True", "False"],
    "yes and no": ["yes", "no"],
    "0, 1 and a stray text": ["0", "1"] * 20 + ["x"],
    "-1 and 1": ["-1", "1"] * 5,
    "0, 1 and 2": ["0", "1", "2"] * 3,
    "1 and 2": ["1", "2"] * 5,
}


@pytest.mark.parametrize("case", ASKED)
def test_columns_that_may_be_classes_need_a_kind(case):
    with pytest.raises(UserError, match=r"a\.csv: label 'y' has the values .*y:classification.*y:regression"):
        settled(ASKED[case])
    assert settled([text for text in ASKED[case] if text not in ("True", "False", "yes", "no")], "regression") == "regression"


CODED = {
    "-1 and 1": (["-1", "1"] * 5, "where -1 means missing, leave the cell empty"),
    "0, 1 and 2": (["0", "1", "2"] * 3, "a column of 0 and 1 for each"),
    "words": (["active", "inactive"] * 3, "write two classes so"),
    "probabilities": (["0.5", "0.7"] * 9 + ["1"], "y:regression"),
}


@pytest.mark.parametrize("case", CODED)
def test_classes_of_another_coding_are_refused_with_what_to_do(case):
    texts, message = CODED[case]
    with pytest.raises(UserError, match=message):
        settled(texts, "classification")


def test_single_slips_are_rows_not_files():
    assert settled(["0", "1"] * 200 + ["2"], "classification") == "classification"
    assert settled(["0", "1", "1", "2", "x"], "classification") == "classification"
    assert settled(["yes", "no", "maybe"], "classification") == "classification"


def test_words_for_regression_are_refused():
    with pytest.raises(UserError, match="of which none is a number; for two classes write 0 and 1"):
        settled(["high", "low"], "regression")
    with pytest.raises(UserError, match="decimal point in place of the comma"):
        settled(["0,5", "1,5"])


def test_names_with_colons():
    assert parse_label("logP:exp", ["logP:exp", "x"]) == LabelSpec(name="logP:exp", unit="", kind=UNSAID)
    assert parse_label("logP:exp:regression:a:b", ["logP:exp"]) == LabelSpec(name="logP:exp", unit="a:b", kind="regression")
    assert parse_label("a:b:classification", ["a", "a:b"]).name == "a:b"
    with pytest.raises(UserError, match="kind must be"):
        parse_label("logP:exp", ["x"])
