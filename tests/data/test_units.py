"""Ratios of units, against values from elsewhere."""

import pytest

from moleblend_fs.data.units import FAMILIES, factor


@pytest.mark.parametrize(
    ("unit", "into", "expected"),
    [
        ("meV", "eV", 1e-3),
        ("eV", "meV", 1e3),
        ("kcal/mol", "kJ/mol", 4.184),
        ("eV", "kJ/mol", 96.48533212331),
        ("Hartree", "meV", 27211.386245981),
        ("hartree", "kcal/mol", 627.5094740631),
        ("eV", "cm-1", 8065.543937),
        ("cal/(mol K)", "J/mol/K", 4.184),
        ("a0^3", "\u00c5\u00b3", 0.14818471),
        ("bohr", "pm", 52.9177210544),
        ("\u00b5M", "mol/L", 1e-6),
        ("mg/mL", "g/L", 1.0),
        ("log mol/L", "log mol/L", 1.0),
        ("", "", 1.0),
    ],
)
def test_known_ratios(unit, into, expected):
    assert factor(unit, into) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("unit", "into"), [("mol/L", "log mol/L"), ("mol/L", "mg/L"), ("", "eV"), ("eV", ""), ("M", "m"), ("a0^2", "a0^3"), ("K", "\u00b0C")]
)
def test_no_ratio(unit, into):
    assert factor(unit, into) is None


def test_there_and_back():
    for family in FAMILIES:
        for unit in family:
            for into in family:
                assert factor(unit, into) * factor(into, unit) == pytest.approx(1, rel=1e-14)
    units = [unit for family in FAMILIES for unit in family]
    assert len(units) == len(set(units)), "a unit is of one quantity"
