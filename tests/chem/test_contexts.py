"""Contexts of atoms and bonds: GROVER's names by hand, and codes that are equal where, and only where, names are."""

import numpy as np
import pytest
import torch

from moleblend_fs.chem.contexts import atom_names, bond_names, contexts
from moleblend_fs.data.contexts import atom_codes, bond_codes
from moleblend_fs.data.graph import reordered
from tests.model.molecules import AWKWARD, ORDINARY, graph

MOLECULES = [graph(smiles, coordinates=False) for smiles in (*ORDINARY, *AWKWARD, "F/C=C\\Cl", "FC=CCl", "C1CC1", "[Na+].[Cl-]")]


def parts(molecule):
    return molecule.atom_features[:, 0], molecule.bonds, molecule.bond_classes


def test_acetone():
    assert atom_names(*parts(graph("CC(C)=O", coordinates=False))) == ["C_C-SINGLE1", "C_C-SINGLE2_O-DOUBLE1", "C_C-SINGLE1", "O_C-DOUBLE1"]
    single = "(SINGLE-STEREONONE)"
    assert bond_names(*parts(graph("CC(C)=O", coordinates=False))) == [
        f"{single}_C-(DOUBLE-STEREONONE)1_C-{single}1",
        f"{single}_C-(DOUBLE-STEREONONE)1_C-{single}1",
        f"(DOUBLE-STEREONONE)_C-{single}2",
    ]


def test_no_bond_and_no_element():
    assert atom_names(*parts(graph("[Na+].[Cl-]", coordinates=False))) == ["Na", "Cl"]
    assert bond_names(*parts(graph("C", coordinates=False))) == []
    assert contexts(np.array([118]), np.zeros((0, 2), np.uint16), np.zeros(0, np.uint8))["atoms"][0].name == "*"
    assert bond_names(*parts(graph("F/C=C/Cl", coordinates=False)))[1].startswith("(DOUBLE-STEREOE)_")


def test_codes_are_equal_where_names_are():
    code_of: dict[str, int] = {}
    for molecule in MOLECULES:
        for found in contexts(*parts(molecule)).values():
            for name, code, _ in found:
                assert code_of.setdefault(name, code) == code
    assert len(set(code_of.values())) == len(code_of) > 50


def test_codes_do_not_change():
    """Vocabularies on disk hold them."""
    found = contexts(*parts(graph("CO", coordinates=False)))
    assert {entry.name: entry.code for entries in found.values() for entry in entries} == {
        "C_O-SINGLE1": 3442248698865687636,
        "O_C-SINGLE1": 2508884434723700954,
        "(SINGLE-STEREONONE)": -805483362522313977,
    }


@pytest.mark.parametrize("molecule", MOLECULES[:8], ids=(*ORDINARY, "C"))
def test_order_does_not_matter(molecule):
    order = np.random.default_rng(0).permutation(molecule.num_atoms)
    moved = reordered(molecule, order)
    for found, other in zip(contexts(*parts(molecule)).values(), contexts(*parts(moved)).values(), strict=True):
        assert sorted(found) == sorted(other)


def test_a_bond_has_one_code_from_either_end():
    molecule = MOLECULES[1]
    bonds, classes = molecule.bonds.astype(np.int64), torch.from_numpy(molecule.bond_classes.astype(np.int64))
    there, back = torch.from_numpy(bonds), torch.from_numpy(bonds[:, ::-1].copy())
    elements = torch.from_numpy(molecule.atom_features[:, 0].astype(np.int64))
    codes = bond_codes(elements, torch.cat([there[:, 0], back[:, 0]]), torch.cat([there[:, 1], back[:, 1]]), classes.repeat(2))
    assert torch.equal(codes[: len(bonds)], codes[len(bonds) :])
    assert atom_codes(elements, there[:0, 0], there[:0, 1], classes[:0]).unique().numel() == elements.unique().numel()
