"""What stands where a SMILES should."""

import logging
import sys
import threading

import pytest
from rdkit import Chem

from moleblend_fs.chem.parse import parse_smiles
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
