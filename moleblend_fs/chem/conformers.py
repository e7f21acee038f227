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
        timeout: seconds per molecule. RDKit looks at the clock between attempts to embed, so that a molecule of hundreds of
            atoms may overrun it by one attempt.
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
        (conformers, n, 3) float32 in Angstrom, at least one; or the reason why there is none. Conformers that were ready
        when the time was up are kept.
    """
    if mol.GetNumAtoms() == 1:
        return np.zeros((1, 1, 3), dtype=np.float32)
    deadline = time.monotonic() + options.timeout
    mol = Chem.Mol(mol)
    parameters: Any = rdDistGeom.ETKDGv3()
    seed = zlib.crc32(f"{options.seed} {smiles}".encode())
    structures: list[np.ndarray] = []
    # One at a time: RDKit drops all conformers of a call that runs out of time.
    for number in range(options.count):
        for random_start in (False, True):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            parameters.randomSeed = (seed + number) & 0x7FFFFFFF
            parameters.useRandomCoords = random_start
            parameters.timeout = max(1, math.floor(left))
            try:
                rdDistGeom.EmbedMultipleConfs(mol, 1, parameters)
            except (RuntimeError, ValueError) as error:
                return f"RDKit: {' '.join(str(error).split())}"
            if mol.GetNumConformers():
                _relax(mol, deadline)
                structures.append(mol.GetConformer().GetPositions())
                break
        if not structures:
            return "embedding failed" if time.monotonic() < deadline else f"embedding took more than {options.timeout} s"
    return np.stack(structures).astype(np.float32)


def _relax(mol: Chem.Mol, deadline: float) -> None:
    """Minimise the conformer in place until converged or the time is up; best effort."""
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, rdForceFieldHelpers.MMFFGetMoleculeProperties(mol))
    if field is None:
        return
    field.Initialize()
    for _ in range(_MINIMISATION_ROUNDS):
        if time.monotonic() >= deadline or field.Minimize(maxIts=_MINIMISATION_STEPS) == 0:
            break
