"""Units whose ratio is known, so that labels in one can be compared with predictions in another."""

KILO_JOULE_PER_MOL = 1000 / (1.602176634e-19 * 6.02214076e23)
"""In eV; exact (SI of 2019)."""
CALORIE = 4.184
"""In joule, the thermochemical one; exact."""
HARTREE, BOHR = 27.211386245981, 0.529177210544
"""In eV and Angstrom: CODATA 2022, known to 1e-12 and 2e-10."""
INVERSE_CENTIMETRE = 6.62607015e-34 * 299_792_458e2 / 1.602176634e-19
"""In eV; exact."""

FAMILIES: tuple[dict[str, float], ...] = (
    {
        "eV": 1.0,
        "keV": 1e3,
        "meV": 1e-3,
        "hartree": HARTREE,
        "Eh": HARTREE,
        "Ha": HARTREE,
        "mHa": HARTREE / 1e3,
        "kJ/mol": KILO_JOULE_PER_MOL,
        "J/mol": KILO_JOULE_PER_MOL / 1e3,
        "kcal/mol": KILO_JOULE_PER_MOL * CALORIE,
        "cal/mol": KILO_JOULE_PER_MOL * CALORIE / 1e3,
        "cm^-1": INVERSE_CENTIMETRE,
    },
    {"J/(mol K)": 1.0, "kJ/(mol K)": 1e3, "cal/(mol K)": CALORIE, "kcal/(mol K)": CALORIE * 1e3},
    *({f"{name}{power}": ratio**n for name, ratio in (("Angstrom", 1.0), ("nm", 10.0), ("pm", 0.01), ("a0", BOHR))} for n, power in
      ((1, ""), (2, "^2"), (3, "^3"))),
    {"mol/L": 1.0, "mmol/L": 1e-3, "umol/L": 1e-6, "nmol/L": 1e-9, "pmol/L": 1e-12, "mol/m^3": 1e-3},
    {"g/L": 1.0, "mg/L": 1e-3, "ug/L": 1e-6, "ng/L": 1e-9, "g/mL": 1e3, "mg/mL": 1.0, "ug/mL": 1e-3, "ng/mL": 1e-6},
    {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12, "min": 60.0, "h": 3600.0},
)  # fmt: skip
"""Tables of units of one quantity, each with its size in the first of the table."""

SPELLINGS = {
    "Hartree": "hartree",
    "Eh/particle": "hartree",
    "cm-1": "cm^-1",
    "1/cm": "cm^-1",
    "kJ mol^-1": "kJ/mol",
    "kJ mol-1": "kJ/mol",
    "kcal mol^-1": "kcal/mol",
    "kcal mol-1": "kcal/mol",
    "J/mol/K": "J/(mol K)",
    "cal/mol/K": "cal/(mol K)",
    "J/molK": "J/(mol K)",
    "cal/molK": "cal/(mol K)",
    "M": "mol/L",
    "mM": "mmol/L",
    "uM": "umol/L",
    "nM": "nmol/L",
    "pM": "pmol/L",
    **{
        f"{spelled}{power}": f"{name}{power}"
        for spelled, name in (("A", "Angstrom"), ("\u00c5", "Angstrom"), ("angstrom", "Angstrom"), ("bohr", "a0"), ("Bohr", "a0"))
        for power in ("", "^2", "^3")
    },
}
"""Other ways to write them."""


def canonical(unit: str) -> str:
    """A unit as `FAMILIES` writes it, where it is one of them; micro signs, superscripts and blanks do not matter."""
    text = " ".join(unit.split()).replace("\u00b5", "u").replace("\u03bc", "u").replace("\u00b7", " ").replace("*", " ")
    text = text.replace("\u00b2", "^2").replace("\u00b3", "^3").replace("\u207b\u00b9", "^-1").replace("\u212b", "\u00c5")
    return SPELLINGS.get(text, text)


def factor(unit: str, into: str) -> float | None:
    """How many `into` one `unit` is: 1 for the same unit, None where that is not known (logarithms, temperatures, other quantities)."""
    unit, into = canonical(unit), canonical(into)
    if unit == into:
        return 1.0
    for family in FAMILIES:
        if unit in family and into in family:
            return family[unit] / family[into]
    return None
