"""Which column of a table has the SMILES."""

from collections.abc import Sequence

SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "structure")
"""What a column of SMILES may be called, in any case, where none is named; the first that is there."""


def spellings() -> list[str]:
    """`SMILES_NAMES` as they may be written, the first ones first."""
    return [spelt for name in SMILES_NAMES for spelt in dict.fromkeys((name, name.upper(), name.capitalize(), name.title()))]


def find_smiles_column(header: Sequence[str]) -> str | None:
    """The column that is called as a column of SMILES may be, in any case; None where there is none."""
    for wanted in SMILES_NAMES:
        if found := [name for name in header if name.lower() == wanted]:
            return wanted if wanted in found else found[0]
    return None
