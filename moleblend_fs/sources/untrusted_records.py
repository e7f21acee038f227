"""Unpickling of the records of other people's files: plain containers, numbers, strings, and NumPy arrays of these."""

from typing import Any

from moleblend_fs.data.pickle_machine import Machine
from moleblend_fs.data.pickle_parts import Buildable, Limits, Name, Refused
from moleblend_fs.data.pickled_numpy import NAMES
from moleblend_fs.errors import UserError


class _Unread(Buildable):
    """An RDKit molecule, which Uni-Mol's own script leaves in its records; nothing reads it."""

    def __init__(self, *arguments: Any):
        pass

    def build(self, state: Any) -> "_Unread":
        return self


_NAMES = {**NAMES, ("rdkit.Chem.rdchem", "Mol"): Name("rdkit.Chem.rdchem.Mol", _Unread)}

LIMITS = Limits()
"""What a record may amount to: an array of 8 million numbers, say, and about two seconds of work."""


def loads(data: bytes, where: str, limits: Limits = LIMITS) -> Any:
    """Unpickle bytes.

    Args:
        where: what to name in the message.
        limits: what they may amount to.

    Raises:
        UserError: the pickle asks for anything but plain data: it may be an attack, and nothing of it was run.
        ValueError: damaged data, or more than the limits admit.
    """
    try:
        return Machine(_NAMES, limits).load(data)
    except Refused as error:
        raise UserError(
            f"{where}: refused, its pickle asks for {error}; only plain containers and NumPy arrays of numbers or strings are admitted. "
            "Nothing of it was run. If the file is trustworthy, write it anew with such content"
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"damaged pickle ({type(error).__name__}: {error})") from error
