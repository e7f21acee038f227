"""Three-dimensional structures from ETKDG where a data set has none."""

import math
import time
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

MAX_CONFORMERS = 11
"""The Uni-Mol line uses 11; more would only swell the store."""

_MINIMISATION_STEPS = 20
"""Force-field steps between two looks at the clock."""
_MINIMISATION_ROUNDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformerOptions:
    """How to make conformers.

    Attributes:
        count: conformers per molecule, at most 11; 0 makes none.
        seed: of the embedding. A molecule's own seed also depends on its SMILES, so that its place in the file does not matter.
        timeout: seconds per molecule. Embedding is given up and minimisation cut short when they have passed.
    """

    count: int = 0
    seed: int = 0
    timeout: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MAX_CONFORMERS:
            raise ValueError(f"--conformers must be 0 to {MAX_CONFORMERS}, got {self.count}")
        if self.timeout < 1:
            raise ValueError(f"--conformer-timeout must be at least 1 second, got {self.timeout}")


def embed(mol: Chem.Mol, smiles: str, options: ConformerOptions) -> np.ndarray | str:
    """Up to `count` ETKDGv3 conformers, relaxed with MMFF94 where it has parameters.

    Args:
        mol: n atoms, all hydrogens explicit.
        smiles: seeds the embedding, together with `options.seed`.

    Returns:
        (conformers, n, 3) float32 in Angstrom, at least one; or the reason why there is none.
    """
    if mol.GetNumAtoms() == 1:
        return np.zeros((1, 1, 3), dtype=np.float32)
    deadline = time.monotonic() + options.timeout
    mol = Chem.Mol(mol)
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = zlib.crc32(f"{options.seed} {smiles}".encode()) & 0x7FFFFFFF
    for random_start in (False, True):
        left = deadline - time.monotonic()
        if left <= 0:
            return f"embedding took more than {options.timeout} s"
        parameters.useRandomCoords = random_start
        parameters.timeout = max(1, math.floor(left))
        try:
            found = list(rdDistGeom.EmbedMultipleConfs(mol, options.count, parameters))
        except (RuntimeError, ValueError) as error:
            return f"RDKit: {' '.join(str(error).split())}"
        if found:
            _relax(mol, found, deadline)
            return np.stack([mol.GetConformer(i).GetPositions() for i in found]).astype(np.float32)
    return "embedding failed" if time.monotonic() < deadline else f"embedding took more than {options.timeout} s"


def _relax(mol: Chem.Mol, conformers: list[int], deadline: float) -> None:
    """Minimise conformers in place until converged or the time is up; best effort."""
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    for conformer in conformers:
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=conformer)
        if field is None:
            return
        field.Initialize()
        for _ in range(_MINIMISATION_ROUNDS):
            if time.monotonic() >= deadline or field.Minimize(maxIts=_MINIMISATION_STEPS) == 0:
                break
