"""How much alike the molecules of a run's splits are: nearest training molecules, molecules that two splits have in common, and those
that the starting weights were pretrained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem

from moleblend_fs.checkpoint.model_card import ModelCard
from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.weights_by_name import PACKAGED
from moleblend_fs.chem.identity import molecule_key
from moleblend_fs.chem.skeleton import LENGTH, skeleton
from moleblend_fs.data.finetune_tables import read_lines
from moleblend_fs.data.splits import TEST, TRAIN, VALID
from moleblend_fs.data.store import MANIFEST, Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.folds import smiles_of
from moleblend_fs.predictions.domain import Domain
from moleblend_fs.report.similarity_sections import Nearest, Shared
from moleblend_fs.wording import counted

MOST = 20_000
"""Molecules of a run that are compared; of more it would take minutes."""
PAIRS = ((TEST, TRAIN), (TEST, VALID), (VALID, TRAIN))


def nearest(folder: Path, data: Store, folds: Mapping[str, Store], targets: Sequence[str]) -> list[Nearest] | None:
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
    lines = read_lines(folder / "predictions_test.csv", targets)
    return [found.get((line.fold, line.row), Nearest(float("nan"), False)) for line in lines]


def left_out(data: Store) -> str:
    """What is to be said where nothing is compared; "" otherwise."""
    if len(data) <= MOST:
        return ""
    return (
        f"Not looked at, nor how far test molecules are from the training molecules: of {counted(len(data), 'molecule')}, more than "
        f"{MOST:,}, it would take long. moleblend overlap counts what stores have in common, moleblend predict writes similarities."
    )


def overlap(data: Store, folds: Mapping[str, Store]) -> Sequence[Shared]:
    """What splits have in common."""
    if len(data) > MOST:
        return ()
    keys = _keys(data)
    found = []
    for name, store in folds.items():
        of_split = {split: keys[np.asarray(store.split(split))] for split in (TRAIN, VALID, TEST)}
        for one, other in PAIRS:
            found.append(_shared(name, f"{one}, in {other}", of_split[one], of_split[other]))
    return found


def with_pretraining(data: Store, folds: Mapping[str, Store], weights: Path | None) -> tuple[str, Sequence[Shared]]:
    """(what is to be said, what each split has in common with the molecules that the starting weights were trained on).

    Args:
        weights: the checkpoint, None for random weights.
    """
    if weights is None:
        return "The models began with random weights: nothing was seen in pretraining.", ()
    found = load(weights)
    trained_on = found.trained_on
    if trained_on is None:
        return "The starting weights do not say what they were trained on; molecules of the pretraining are not compared.", ()
    what = f"{trained_on.source}, {counted(trained_on.molecules, 'molecule')}"
    store = None if weights.parent == PACKAGED else pretraining_store(weights, trained_on)  # beside it lie all other packages
    if store is None:
        return (
            f"The store that the starting weights were trained on ({what}) is not near them; molecules of the pretraining are not compared "
            f"(moleblend overlap compares stores).{_excluded(found.card)}",
            (),
        )
    if max(len(store), len(data)) > MOST:
        return f"{store.path} ({what}) is too large to be compared here; moleblend overlap does it.", ()
    parts = [np.asarray(store.split(name)) for name in trained_on.trained_splits() if name in store.splits]
    seen = _keys(store, np.unique(np.concatenate(parts)) if parts else None)
    keys = _keys(data)
    rows = [
        _shared(name, f"{split}, in the pretraining", keys[np.asarray(fold.split(split))], seen)
        for name, fold in folds.items()
        for split in (TEST, VALID, TRAIN)
    ]
    return f"Pretraining: {counted(len(seen), 'molecule')} of {store.path} that the starting weights were trained on.", rows


def _excluded(card: ModelCard | None) -> str:
    """The sets whose molecules no store of the pretraining has, as its card says."""
    of_stores = [set((store.options.get("exclude") or {}).get("sets", ())) for store in card.stores] if card is not None else []
    names = sorted(set.intersection(*of_stores)) if of_stores else []
    return f" It has no molecule of {', '.join(names)}, whatever its stereochemistry." if names else ""


def pretraining_store(weights: Path, trained_on: TrainedOn) -> Store | None:
    """The store that weights were trained on, where it lies in or beside one of the three folders above them; None elsewhere."""
    for folder in weights.absolute().parents[:3]:
        for depth in ("", "*/", "*/*/"):
            for place in sorted(folder.glob(f"{depth}{MANIFEST}")):
                try:
                    if read_json(place).get("records_sha256") == trained_on.records_sha256:
                        return Store(place.parent)
                except (*READING, AttributeError, UserError):
                    continue  # none that can be read is the one
    return None


def _keys(store: Store, indices: np.ndarray | None = None) -> np.ndarray:
    """(n, 2) InChIKeys and skeletons; of molecules that InChI cannot express, as parts of polymers, `molecule_key` and `skeleton`; the
    SMILES itself where RDKit cannot read it."""
    return np.array([_key(text) for text in smiles_of(store, indices)], dtype=object).reshape(-1, 2)


def _key(smiles: str) -> tuple[str, str]:
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return smiles, smiles
    key = Chem.MolToInchiKey(mol)
    return (key, key[:LENGTH]) if key else (molecule_key(mol), skeleton(mol))


def _shared(fold: str, pair: str, mine: np.ndarray, theirs: np.ndarray) -> Shared:
    whole, skeletons = map(set, theirs.T)
    return Shared(fold, pair, len(mine), sum(key in whole for key, _ in mine), sum(key in skeletons for _, key in mine))
