"""QM9's targets: their columns and units, and the energies of free atoms that are subtracted from them."""

from typing import NamedTuple

HARTREE_IN_MEV = 27_211.386245981
"""CODATA 2022: 1 Hartree = 27.211386245981(30) eV."""


class Target(NamedTuple):
    """A target: its name here and in gdb9.sdf.csv, its column in qm9pack, its unit, and whether both files give it in Hartree."""

    name: str
    column: str
    unit: str
    in_hartree: bool


TARGETS = (
    Target("alpha", "Polarizability_bohr3", "a0^3", False),
    Target("gap", "HOMO_LUMO_gap_au", "meV", True),
    Target("homo", "HOMO_au", "meV", True),
    Target("lumo", "LUMO_au", "meV", True),
    Target("mu", "Dipole_debye", "D", False),
    Target("cv", "Heatcapacity_Cv_cal_mol_K", "cal/(mol K)", False),
    Target("g298", "GibbsFreeEnergy_298K_au", "meV", True),
    Target("h298", "Enthalphy_298K_au", "meV", True),
    Target("r2", "R2_bohr2", "a0^2", False),
    Target("u298", "InternalEnergy_298K_au", "meV", True),
    Target("u0", "InternalEnergy_0K_au", "meV", True),
    Target("zpve", "ZPVE_au", "meV", True),
)
"""In the order of the paper's Table 2."""

ATOM_REFERENCES = {
    "u0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "u298": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "h298": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "g298": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
}
"""Energies of the free atoms in Hartree, the data set's own table (figshare 1057643, "Atomref"); subtracted from the totals."""

ENERGY_PER_ATOM = (-8000.0, 0.0)
"""meV per atom; an atomisation energy outside of this comes from other units than Hartree, or another level of theory."""
