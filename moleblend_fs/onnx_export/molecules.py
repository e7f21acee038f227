"""Molecules that an exported model is tried with."""

from collections.abc import Sequence

import numpy as np

from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.record import encode

NO_LABELS = np.zeros(0)
ELEMENTS = """
[H][H] [He] [Li+] [Be+2] OB(O)O C N O F [Ne] [Na+].[Cl-] [Mg+2] [Al+3] C[Si](C)(C)C OP(=O)(O)O CS(=O)(=O)C Cl [K+].[Br-] [Ca+2] [Ti]
[Fe+2] [Cu+2] [Zn+2] [Se]=C CBr [Ag+] CI [Pt](Cl)(Cl)(N)N [Hg](C)C [Pb+2] [U] [Og] *C
"""
"""From all over the periodic table, alone and bound; ions, gases, a place without an element."""
DIVERSE = r"""
CC(=O)Oc1ccccc1C(=O)O Cn1cnc2c1c(=O)n(C)c(=O)n2C CN1C2CCC1CC(C2)OC(=O)C(CO)c1ccccc1 C[C@H](N)C(=O)O C/C=C/C C/C=C\C C#N [C-]#[O+]
[O-][N+](=O)c1ccccc1 C[N+](C)(C)CC([O-])=O [CH3] O=[N] [13CH4] c1ccc2c(c1)ccc1ccccc12 CCO.CCN FS(F)(F)(F)(F)F C1CC1C2CC2
OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O c1cc[nH]c1 C1=CC=C1 [O-]Cl(=O)(=O)=O.[NH4+]
"""
"""Rings, charges, radicals, stereochemistry, isotopes, several parts."""
LARGE = ("C" * 60, "c1ccc(cc1)" * 12 + "C", "NCC(=O)" * 20 + "O", "C" * 150)
"""Longer than any path that is told apart by its bonds; 60 to 150 atoms."""
LARGEST_3D = 90
"""Atoms of the molecules that structures are made of: of more it takes long."""
SAMPLE = 200
"""Training molecules, evenly spaced, at most."""
SAMPLE_3D = 40


def records_to_try(training: Sequence[str], build: BuildOptions) -> list[bytes]:
    """The set above, and a sample of the training molecules, made as the model wants them; those that cannot be made are left out."""
    structures = build.conformers.count > 0
    most = SAMPLE_3D if structures else SAMPLE
    sample = [training[place] for place in np.unique(np.linspace(0, len(training) - 1, min(len(training), most)).astype(int)).tolist()]
    silence_rdkit()
    records = []
    for number, smiles in enumerate([*ELEMENTS.split(), *DIVERSE.split(), *LARGE, *sample]):
        options = build if not structures or len(smiles) <= LARGEST_3D else BuildOptions(hydrogens=build.hydrogens)
        graph = graph_from_smiles(smiles, labels=NO_LABELS, options=options)
        if not isinstance(graph, Failure):
            records.append(encode(graph, number))
    return records
