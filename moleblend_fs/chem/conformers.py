"""Three-dimensional structures from ETKDG where a data set has none."""

import math
import time
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

MAX_CONFORMERS = 11
"""The Uni-Mol line uses 11; more would only swell the store."""

MINIMISATION_STEPS = 2000
"""Drug-like molecules take 100 to 1,000, and it ends where they have converged."""

_EVALUATIONS_PER_STEP = 3
"""Of energy and gradient in a step of the minimiser, at most on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformerOptions:
    """How to make conformers.

    Attributes:
        count: conformers per molecule, at most 11; 0 makes none.
        seed: of the embedding. A molecule's own seed also depends on its SMILES, so that its place in the file does not matter.
        timeout: seconds per molecule. RDKit looks at the clock between attempts to embed, so that a molecule of hundreds of
            atoms may overrun it by one attempt.
        steps: of the force field's minimiser, for each conformer, at most; 0 leaves the embedding as it is. Fewer are made where the
            time left would not do for so many.
    """

    count: int = 0
    seed: int = 0
    timeout: int = 30
    steps: int = MINIMISATION_STEPS

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MAX_CONFORMERS:
            raise ValueError(f"--conformers must be 0 to {MAX_CONFORMERS}, got {self.count}")
        if self.timeout < 1:
            raise ValueError(f"--conformer-timeout must be at least 1 second, got {self.timeout}")
        if self.steps < 0:
            raise ValueError(f"--conformer-steps must be 0 or more, got {self.steps}")


class Embedded(NamedTuple):
    """Conformers of a molecule, (conformers, n, 3) float32 in Angstrom, and how many of them are minima of the force field."""

    coordinates: np.ndarray
    converged: int


def embed(mol: Chem.Mol, smiles: str, options: ConformerOptions) -> Embedded | str:
    """Up to `count` ETKDGv3 conformers, relaxed with MMFF94 where it has parameters.

    Args:
        mol: n atoms, all hydrogens explicit.
        smiles: seeds the embedding, together with `options.seed`.

    Returns:
        At least one conformer; or the reason why there is none. Conformers that were ready when the time was up are kept.
    """
    if mol.GetNumAtoms() == 1:
        return Embedded(np.zeros((1, 1, 3), dtype=np.float32), converged=1)
    deadline = time.monotonic() + options.timeout
    mol = Chem.Mol(mol)
    parameters: Any = rdDistGeom.ETKDGv3()
    seed = zlib.crc32(f"{options.seed} {smiles}".encode())
    # Else all fragments come to lie around the same point.
    parameters.embedFragmentsSeparately = False
    structures: list[np.ndarray] = []
    converged = 0
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
                converged += _relax(mol, options.steps, deadline)
                structures.append(mol.GetConformer().GetPositions())
                break
        if not structures:
            return "embedding failed" if time.monotonic() < deadline else f"embedding took more than {options.timeout} s"
    return Embedded(np.stack(structures).astype(np.float32), converged)


def _relax(mol: Chem.Mol, steps: int, deadline: float) -> bool:
    """Minimise the conformer in place; whether it converged. Molecules for which MMFF94 lacks parameters stay as they are.

    One call: each begins anew to learn the curvature, so that many short ones do not converge.
    """
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return False
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, ignoreInterfragInteractions=False)
    if field is None:
        return False
    field.Initialize()
    steps = min(steps, int((deadline - time.monotonic()) / (_EVALUATIONS_PER_STEP * _seconds_of_an_evaluation(field))))
    return steps > 0 and field.Minimize(maxIts=steps) == 0


def _seconds_of_an_evaluation(field: Any) -> float:
    """Of energy and gradient; the least of a few, since other processes only make it longer."""
    best = float("inf")
    for _ in range(3):
        begin = time.monotonic()
        field.CalcEnergy()
        field.CalcGrad()
        best = min(best, time.monotonic() - begin)
    return max(best, 1e-7)
