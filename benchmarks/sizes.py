"""Molecule sizes of the data sets that benchmarks imitate, from histograms of their atom counts (sizes.csv).

pcqm4mv2: heavy atoms of 1,800 molecules drawn from PCQM4Mv2; qm9: atoms with hydrogens of all 130,831 molecules of QM9;
lipo: heavy atoms of Lipophilicity's 4,200 molecules.
"""

import csv
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_suffix(".csv")
TITLES = {"pcqm4mv2": "PCQM4Mv2", "qm9": "QM9 with hydrogens", "lipo": "Lipophilicity"}
"""Name -> what rows call the set."""


def draw_sizes(name: str, count: int, seed: int) -> np.ndarray:
    """Atom counts of `count` molecules, int64, drawn with replacement from the set's histogram: the same on every machine.

    Raises:
        ValueError: if there is no such set.
    """
    if name not in TITLES:
        raise ValueError(f"no sizes of {name!r}; there are those of {', '.join(TITLES)}")
    with open(TABLE, newline="") as stream:
        rows = [(int(row["atoms"]), int(row["molecules"])) for row in csv.DictReader(stream) if row["set"] == name]
    atoms, molecules = np.array(rows, dtype=np.int64).T
    return np.random.default_rng(seed).choice(atoms, count, p=molecules / molecules.sum())
