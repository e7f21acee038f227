"""SMILES and mol blocks -> RDKit molecules, with RDKit's own reason where it refuses."""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rdkit import Chem, rdBase

from moleblend_fs.data.graph import Failure


def silence_rdkit() -> None:
    """Keep RDKit's messages off stderr in this process; reasons of failures are collected apart from that."""
    rdBase.DisableLog("rdApp.*")


_LISTENING = threading.Lock()  # state: held by the thread that RDKit's log goes to


@contextmanager
def rdkit_messages() -> Iterator[list[str]]:
    """What RDKit logs within the block in this thread, one string a message, instead of on stderr. Not to be nested."""
    with _LISTENING:
        yield from _messages()


def _messages() -> Iterator[list[str]]:
    messages: list[str] = []
    listener = threading.get_ident()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == listener:
                messages.append(re.sub(r"^\[[\d:]+\]\s*", "", record.getMessage()).strip())

    logger = logging.getLogger("rdkit")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [Collect()], False
    rdBase.LogToPythonLogger()
    rdBase.EnableLog("rdApp.error")
    try:
        yield messages
    finally:
        rdBase.LogToCppStreams()
        silence_rdkit()
        logger.handlers, logger.propagate = handlers, propagate


EXTENSION = re.compile(r"\|[^|]*\|")
"""What CXSMILES adds after a blank: labels, coordinates, radicals, enhanced stereochemistry."""


OTHER_NOTATIONS = {
    "an InChI": re.compile(r"InChI=.*"),
    "an InChIKey": re.compile(r"[A-Z]{14}-[A-Z]{8}[SN]A-[A-Z]"),  # no SMILES has the A of its version
    "a CAS number": re.compile(r"[0-9]{2,7}-[0-9]{2}-[0-9]"),
    "a reaction": re.compile(r"((->|[^>])*(?<!-)>){2}(->|[^>])*"),  # -> is a dative bond
    "SELFIES": re.compile(r"(?=.*\[C\])(\[[A-Z][a-z]?\]){2,}|(?=.*\[([=#]?(Branch|Ring)|[=#/\\]+[A-Z]))(\[[^\[\]]+\])+"),
}
"""What stands in columns of SMILES by mistake -> its form. Of SELFIES the first form is one of SMILES, too, of bare atoms, as no molecule
has them."""


INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad"
"""Marks of byte order, joints and directions, which come along when text is copied; RDKit passes over them at either end."""
NOT_ASCII = "is not ASCII"
LONGEST_QUOTE = 200
"""Characters of a SMILES that a reason repeats whole."""


def parse_smiles(smiles: str) -> Chem.Mol | Failure:
    """A sanitised molecule, atoms in the order of the SMILES, hydrogens implicit.

    Of text after a blank, which RDKit takes for a name, only an extension of CXSMILES is accepted: a molecule is read whole or not at all.
    """
    head, *rest = smiles.split(maxsplit=1)[:2] or [""]
    if "\x00" in smiles or (rest and not EXTENSION.fullmatch(rest[0].rstrip())):
        text = rest[0][:80] if rest else smiles[:80]
        return Failure(input=smiles, reason=f"Trailing text after the SMILES: {text!r}; a molecule must be one SMILES without blanks")
    if not (seen := head.strip(INVISIBLE)):
        return Failure(input=smiles, reason="no SMILES")
    for notation, form in OTHER_NOTATIONS.items():
        if (head[0] == "[" or not rest) and form.fullmatch(head):
            return Failure(input=smiles, reason=f"{notation}, not a SMILES")
    found = _parse(Chem.MolFromSmiles, smiles, shown=smiles)
    if seen.isascii() or (isinstance(found, Failure) and NOT_ASCII in found.reason):
        return found
    told = f"{_foreign_character(seen)}: no SMILES has it, though some look like letters that are"  # RDKit drops it at either end
    return Failure(input=smiles, reason=f"{found.reason}; {told}" if isinstance(found, Failure) else told)


def parse_molblock(block: str, *, shown: str, hydrogens: bool = False) -> Chem.Mol | Failure:
    """A sanitised molecule with its structure, atoms in the block's order.

    Args:
        block: a mol block or one record of an SD file; what follows "M  END" is ignored.
        shown: what a failure gives as its input.
        hydrogens: whether the block's explicit hydrogens stay atoms.
    """
    return _parse(lambda text: Chem.MolFromMolBlock(text, removeHs=not hydrogens), block, shown=shown)


def _parse(read: Callable[[str], Chem.Mol | None], text: str, *, shown: str) -> Chem.Mol | Failure:
    try:
        mol = read(text)
        error = ""
    except Exception as caught:  # RDKit's invariant violations, strings that are not UTF-8
        mol, error = None, str(caught)
    if mol is None:
        with rdkit_messages() as messages:  # rare, so that reading a second time to hear why costs nothing
            try:
                read(text)
            except Exception as caught:  # RDKit cuts its messages to length, perhaps within a character, and fails over that
                error = error or _foreign_character(text) or str(caught)
        reason = _one_line([*messages, error])
        return Failure(input=shown, reason="RDKit: " + (reason.replace(text, f"{text[:80]}...") if len(text) > LONGEST_QUOTE else reason))
    return mol


def _foreign_character(text: str) -> str:
    """Where a text leaves ASCII, which neither SMILES nor the atoms of a mol block do; "" where it does not."""
    place = next((i for i, character in enumerate(text) if not character.isascii()), None)
    return "" if place is None else f"character {text[place]!r} at position {place + 1} {NOT_ASCII}"


def _one_line(messages: list[str]) -> str:
    """RDKit's messages without the drawing of the position, repeats and line breaks; of a broken invariant without the stack."""
    kept = [" ".join(m.split()) for m in messages if m.strip("~^* \n")]
    stack = next((i for i, m in enumerate(kept) if m.startswith("Violation occurred on line")), len(kept))
    kept = [m for m in kept[:stack] if not re.fullmatch(r"\S+ Violation", m)]
    kept = [re.sub(r"^SMILES Parse Error: ", "", m) for m in dict.fromkeys(kept)]
    drawn = [i + 1 for i, m in enumerate(kept) if m.startswith("check for mistakes")]
    return "; ".join(m for i, m in enumerate(kept) if i not in drawn and not m.startswith("Failed parsing")) or "cannot be read"
