"""How near a molecule is to those that a model was trained on, and from where on it counts as outside.

Similarity is Tanimoto's of ECFP4 (Morgan fingerprints of radius 2, 2,048 bits) to the nearest training molecule. A molecule is outside
where it is less similar than 95 % of the training molecules are to their own nearest others.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from moleblend_fs.chem.parse import parse_smiles, silence_rdkit
from moleblend_fs.errors import UserError
from moleblend_fs.sources.delimited import Table, column_indices

RADIUS, BITS = 2, 2048
OUTSIDE = 0.05
"""Share of the training molecules that are less similar to their nearest others than the threshold."""
SAMPLE = 1000
"""Training molecules, evenly spaced, that the threshold is taken from."""
COLUMN = "smiles"


def fingerprints(smiles: Iterable[str]) -> list[DataStructs.ExplicitBitVect | None]:
    """ECFP4 of each SMILES; None where it cannot be read."""
    silence_rdkit()
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    found = (parse_smiles(text) for text in smiles)
    return [generator.GetFingerprint(Chem.RemoveHs(mol)) if isinstance(mol, Chem.Mol) else None for mol in found]


class Domain:
    """The molecules that a model was trained on.

    Args:
        smiles: of all of them; those that cannot be read are left out.

    Attributes:
        threshold: similarity below which a molecule is outside.
    """

    def __init__(self, smiles: Iterable[str]):
        self._training = [each for each in fingerprints(smiles) if each is not None]
        self.threshold = self._threshold()

    @classmethod
    def read(cls, path: Path) -> "Domain":
        """From a table with a column of SMILES."""
        found = cls(cls.listed(path))
        if len(found) == 0:
            raise UserError(f"{path}: no training molecule can be read; copy the run's folder again")
        return found

    @staticmethod
    def listed(path: Path) -> list[str]:
        """The SMILES of such a table."""
        table = Table(path, [[COLUMN]])
        (place,) = column_indices(path, table.header, [COLUMN])
        return [row.cells[place] for row in table.rows() if len(row.cells) > place]

    def __len__(self) -> int:
        return len(self._training)

    def similarity(self, smiles: Sequence[str]) -> np.ndarray:
        """(n,) Tanimoto similarity to the nearest training molecule, 0 to 1; NaN where a SMILES cannot be read."""
        return np.array([np.nan if each is None else self._nearest(each) for each in fingerprints(smiles)], dtype=np.float64)

    def outside(self, similarity: np.ndarray) -> np.ndarray:
        """(n,) bool."""
        return similarity < self.threshold

    def _nearest(self, fingerprint: DataStructs.ExplicitBitVect) -> float:
        return max(DataStructs.BulkTanimotoSimilarity(fingerprint, self._training))

    def _threshold(self) -> float:
        """The `OUTSIDE` quantile of training molecules' similarities to their nearest others."""
        count = len(self._training)
        if count < 2:
            return 0.0
        nearest = []
        for place in np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int)).tolist():
            others = np.array(DataStructs.BulkTanimotoSimilarity(self._training[place], self._training))
            others[place] = -1.0
            nearest.append(others.max())
        return float(np.quantile(nearest, OUTSIDE))
