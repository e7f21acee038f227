"""What stands where a SMILES should."""

import logging
import sys
import threading

import pytest
from rdkit import Chem

from moleblend_fs.chem.parse import parse_molblock, parse_smiles
from moleblend_fs.data.graph import Failure


@pytest.mark.parametrize(
    ("text", "notation"),
    [
        ("InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3", "an InChI"),
        ("LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "an InChIKey"),
        ("64-17-5", "a CAS number"),
        ("CCO>>CC=O", "a reaction"),
        ("CCO>[Na+].[OH-]>CC=O", "a reaction"),
        ("N.[Cu]>>N->[Cu]", "a reaction"),
        ("[C][=C][Branch1][C][F][O]", "SELFIES"),
        ("[N][C][Ring1][C]", "SELFIES"),
        ("[C][C][O]", "SELFIES"),
    ],
)
def test_other_notations_are_named(text, notation):
    """The last one is read by RDKit: as three atoms without hydrogens, which nobody means."""
    found = parse_smiles(text)
    assert isinstance(found, Failure)
    assert found == Failure(input=text, reason=f"{notation}, not a SMILES")


@pytest.mark.parametrize(
    "text",
    [
        *("[Na][Cl]", "[CH3][CH3]", "[2H][2H]", "[CH3][C][CH3]", "[O][O]", "[C-]#[O+]", "[C]", "[Pt]([NH3])[Cl]", "C->[Fe]", "[CH3]->[Fe]"),
        *("N->[Cu](Cl)Cl.N->[Cu](Cl)Cl", "[NH3]->[Pt](Cl)(Cl)<-[NH3]", "CCCCCCCCCCCCCC-CCCCCCCCCC-C", "CCCCCCCCCCCCCC-CCCCCCCCSC-C"),
        *("[C@@H](F)(Cl)Br", "C[C@H](N)O |a:1|", "[13CH3][13CH3]", "[C:1][O:2]", "[#6][#8]", "[NH4+].[Cl-]"),
    ],
)
def test_smiles_of_brackets_are_smiles(text):
    assert isinstance(parse_smiles(text), Chem.Mol)


@pytest.mark.parametrize(
    ("text", "place"),
    [("CC\u0421", 3), ("\u0421\u0421O", 1), ("CCO\u00e9", 4), ("\u201cCCO\u201d", 1), ("C\u200bO", 2), ("\ufeffCO\u4e2d |$a$|", 3)],
    ids=ascii,
)
def test_letters_that_no_smiles_has_are_not_passed_over(text, place):
    """RDKit reads what is left without those at the ends: of C, C and O, two of them Cyrillic, water."""
    found = parse_smiles(text)
    assert isinstance(found, Failure)
    assert f" at position {place} is not ASCII" in found.reason


@pytest.mark.parametrize("text", ["\ufeffCCO", "CCO\u200b", "CCO\u00a0", "\u200eCCO\u200f |$\u00e9;;$|"], ids=ascii)
def test_what_cannot_be_seen_comes_along_and_is_passed_over(text):
    found = parse_smiles(text)
    assert isinstance(found, Chem.Mol)
    assert Chem.MolToSmiles(found) == "CCO"


@pytest.mark.parametrize("text", ["", " ", "\ufeff", "\u200b\u00a0"], ids=ascii)
def test_nothing_that_can_be_seen_is_no_smiles(text):
    assert parse_smiles(text) == Failure(input=text, reason="no SMILES")


def test_a_reason_does_not_repeat_a_text_of_any_length():
    found = parse_smiles(text := "x" * 100_000)
    assert isinstance(found, Failure)
    assert found.input == text
    assert found.reason == f"RDKit: syntax error while parsing: {'x' * 80}...; check for mistakes around position 1:"


@pytest.mark.parametrize("symbol", ["Du ", "Zz ", "\u2013  "], ids=ascii)
def test_an_element_that_there_is_not_is_named(symbol):
    """RDKit gives its stack, of some thousand characters, which were the status of the row."""
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CO")).replace(" O  ", f" {symbol}")
    assert parse_molblock(block, shown="x") == Failure(input="x", reason=f"RDKit: Element '{symbol.strip()}' not found")


def test_threads_hear_the_reasons_of_their_own_molecules():
    """RDKit has one log for all."""
    logger, interval = logging.getLogger("rdkit"), sys.getswitchinterval()
    before, wrong = (list(logger.handlers), logger.propagate), []

    def read(letter: str) -> None:
        for number in range(300):
            text = f"C(({letter}{number}"
            found = parse_smiles(text)
            assert isinstance(found, Failure)
            if f"parsing: {text};" not in found.reason or found.reason.count("parsing: ") > 1:
                wrong.append(found)

    threads = [threading.Thread(target=read, args=(letter,)) for letter in "NOSP"]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert (logger.handlers, logger.propagate) == before
