"""How much alike the molecules of a run's splits are: nearest training molecules, and molecules that two splits have in common."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.skeleton import LENGTH
from moleblend_fs.data.splits import TEST, TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.finetune.folds import smiles_of
from moleblend_fs.predictions.domain import Domain
from moleblend_fs.report.finetuned import Nearest

MOST = 20_000
"""Molecules of a run that are compared; of more it would take minutes."""
PAIRS = ((TEST, TRAIN), (TEST, VALID), (VALID, TRAIN))


def nearest(folder: Path, data: Store, folds: Mapping[str, Store]) -> list[Nearest] | None:
    """Of each line of predictions_test.csv; None where there are too many molecules."""
    if len(data) > MOST:
        return None
    found: dict[tuple[str, str], Nearest] = {}
    for name, store in folds.items():
        domain = Domain(smiles_of(store, store.split(TRAIN)))
        tested = np.asarray(store.split(TEST))
        similarity = domain.similarity(smiles_of(store, tested))
        rows = store.source_row[tested].tolist()
        for row, near, outside in zip(rows, similarity.tolist(), domain.outside(similarity).tolist(), strict=True):
            found[name, str(row)] = Nearest(near, outside)
    with open(folder / "predictions_test.csv", newline="", encoding="utf-8") as stream:
        return [found.get((line.get("fold", ""), line.get("row", "")), Nearest(float("nan"), False)) for line in csv.DictReader(stream)]


def overlap(data: Store, folds: Mapping[str, Store]) -> Sequence[tuple[str, str, int, int, int]]:
    """(fold, "test in train" and so on, molecules, of them with the same InChIKey in the other split, with the same skeleton)."""
    if len(data) > MOST:
        return ()
    keys = np.array([Chem.MolToInchiKey(Chem.MolFromSmiles(text)) or text for text in smiles_of(data)], dtype=object)
    found = []
    for name, store in folds.items():
        of_split = {split: keys[np.asarray(store.split(split))] for split in (TRAIN, VALID, TEST)}
        for one, other in PAIRS:
            whole, skeletons = set(of_split[other]), {key[:LENGTH] for key in of_split[other]}
            same = sum(key in whole for key in of_split[one])
            alike = sum(key[:LENGTH] in skeletons for key in of_split[one])
            found.append((name, f"{one}, in {other}", len(of_split[one]), same, alike))
    return found
