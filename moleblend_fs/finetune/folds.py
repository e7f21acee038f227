"""Which molecules train, select and test, for every fold: a file of splits over the store's source rows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.ML.Cluster import Butina

from moleblend_fs.chem.identity import molecule_key
from moleblend_fs.chem.scaffold import murcko_scaffold
from moleblend_fs.data.split_file import SplitFile, molecules_at
from moleblend_fs.data.splits import TEST, TRAIN, VALID, Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.stored_smiles import smiles_of_store
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.wording import counted

FEWEST = 10
"""Molecules that a split by shares needs."""
MOST_CLUSTERED = 20_000
"""Molecules whose similarities to all others are computed in minutes."""
CUTOFF = 0.35
"""Tanimoto similarity (ECFP4) above which molecules are of one Butina cluster."""
NAMED = 5
"""Targets that a message names, at most."""
Parts = dict[str, np.ndarray]
"""Split name -> molecule indices."""


def smiles_of(store: Store, indices: Sequence[int] | np.ndarray | None = None) -> list[str]:
    """SMILES of some molecules, by default of all."""
    return [smiles for _, smiles in smiles_of_store(store, indices)]


def make_folds(store: Store, settings: Settings) -> SplitFile:
    """Every fold's train, valid and test rows.

    A single split has the shares asked for. Of a cross-validation's K parts each tests once; a share of the others selects, as large as
    the valid share of all molecules.

    Raises:
        UserError: there are too few molecules or groups, or the column or file of splits lacks what is needed.
    """
    kind = kind_of(store, settings)
    if kind in ("column", "store"):
        folds: dict[str, Parts] = {"fold0": _prescribed(store, settings)}
    elif kind == "file":
        file = SplitFile.load(Path(settings.split_file))
        folds = {name: {s: molecules_at(store, rows, settings.split_file) for s, rows in fold.items()} for name, fold in file.folds.items()}
        folds = {name: _completed(store, fold, settings, f"{settings.split_file}, {name}") for name, fold in folds.items()}
    else:
        if len(store) < max(FEWEST, 2 * settings.folds):
            raise UserError(
                f"{counted(len(store), 'molecule is', 'molecules are')} too few for a split; give at least "
                f"{max(FEWEST, 2 * settings.folds)}"
            )
        folds = _by_shares(store, settings, kind)
    for name, fold in folds.items():
        if empty := [split for split, indices in fold.items() if len(indices) == 0 and split != TEST]:
            raise UserError(f"{name}: the {empty[0]} split is empty ({_sizes(fold)}); choose another --split or --seed")
    about: dict[str, Any] = {"kind": kind, "seed": settings.seed, "folds": settings.folds, "repeats": settings.repeats}
    rows = {name: {split: store.source_row[indices] for split, indices in fold.items()} for name, fold in folds.items()}
    return SplitFile(folds=rows, about=about, inputs=store.manifest.inputs)


def check_labels(folds: Mapping[str, Store], targets: Sequence[str]) -> None:
    """That there is something to learn, and to choose the best epoch by, in every fold, before any member is trained.

    Raises:
        UserError: a target without a value among the training molecules, or none with one among those that select; or all targets are
            classes, of which the training molecules have one alone.
    """
    for name, store in folds.items():
        labels, found = store.manifest.labels, store.manifest.statistics
        columns = [store.manifest.label_index(target) for target in targets]
        trained = [found[TRAIN][column] for column in columns]
        if empty := [target for target, of in zip(targets, trained, strict=True) if of is None]:
            raise UserError(
                f"{name}: no training molecule has a value of {', '.join(empty[:NAMED])}{', ...' if len(empty) > NAMED else ''}; "
                "leave such targets out, or choose another --split or --seed"
            )
        if all(found[VALID][column] is None for column in columns):
            raise UserError(f"{name}: no molecule of the valid split, which chooses the best epoch, has a value; choose another split")
        if all(of.min == of.max and labels[column].kind == "classification" for of, column in zip(trained, columns, strict=True) if of):
            told = ", ".join(f"{target}: {of.min:g}" for target, of in zip(targets[:NAMED], trained, strict=False) if of)
            raise UserError(f"{name}: the training molecules are all of one class ({told}): there is nothing to learn")


def kind_of(store: Store, settings: Settings) -> str:
    """How the molecules are split where it was not said: as a store is already, or by scaffolds."""
    return settings.split or ("store" if {VALID, TEST} & set(store.splits) and settings.folds == 1 else "scaffold")


def _by_shares(store: Store, settings: Settings, kind: str) -> dict[str, Parts]:
    smiles = smiles_of(store)
    groups = groups_of(smiles, kind)
    folds: dict[str, Parts] = {}
    for repeat in range(settings.repeats):
        prefix = f"repeat{repeat}-" if settings.repeats > 1 else ""
        seed = settings.seed + repeat
        if settings.folds > 1:
            parts = dealt(groups, settings.folds, seed)
            if any(len(part) == 0 for part in parts):
                raise UserError(f"--folds {settings.folds}: the molecules have only {len(set(groups))} groups; take fewer folds")
            folds |= {f"{prefix}fold{k}": _fold(parts, k, groups, settings.fractions[1], seed) for k in range(settings.folds)}
        elif kind in ("scaffold", "random"):
            splitter = Splitter(kind=kind, fractions=settings.fractions, seed=seed)  # type: ignore[arg-type]
            parts_ = splitter(rows=store.source_row, prescribed=[None] * len(store), scaffolds=groups, keys=groups)
            folds[f"{prefix}fold0"] = parts_
        else:
            folds[f"{prefix}fold0"] = balanced(groups, settings.fractions, seed)
    return folds


def groups_of(smiles: Sequence[str], kind: str) -> list[str]:
    """For each molecule what it must not be parted from: itself, its scaffold (with stereochemistry), or its Butina cluster.

    Raises:
        UserError: RDKit cannot read a SMILES, as of a store that another version made.
    """
    molecules = [Chem.MolFromSmiles(text) for text in smiles]
    if unread := [text for text, mol in zip(smiles, molecules, strict=True) if mol is None]:
        raise UserError(
            f"this version of RDKit cannot read the stored SMILES {unread[0][:80]!r}: make the store again, or give --split-file"
        )
    if kind == "random":
        return [molecule_key(mol) for mol in molecules]
    if kind == "butina":
        return clusters(molecules)
    return [murcko_scaffold(mol, chirality=True) for mol in molecules]


def clusters(molecules: Sequence[Chem.Mol]) -> list[str]:
    """Butina's clusters by ECFP4 similarity."""
    if len(molecules) > MOST_CLUSTERED:
        raise UserError(f"--split butina compares all pairs: {len(molecules)} molecules are too many (at most {MOST_CLUSTERED})")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = generator.GetFingerprints(list(molecules), numThreads=1)
    distances: list[float] = []
    for i in range(1, len(prints)):
        distances.extend(1 - similarity for similarity in DataStructs.BulkTanimotoSimilarity(prints[i], prints[:i]))
    result = [""] * len(molecules)
    for number, members in enumerate(Butina.ClusterData(distances, len(prints), 1 - CUTOFF, isDistData=True, reordering=True)):
        for member in members:
            result[member] = str(number)
    return result


def _members(groups: Sequence[str], seed: int) -> list[list[int]]:
    """The molecules of each group, groups in a seeded order."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        found[group].append(index)
    members = list(found.values())
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(members))
    return [members[i] for i in order.tolist()]


def dealt(groups: Sequence[str], count: int, seed: int) -> list[np.ndarray]:
    """Molecules in parts of about one size, no group in two: largest groups first, each into the part that is smallest then."""
    parts: list[list[int]] = [[] for _ in range(count)]
    for members in sorted(_members(groups, seed), key=len, reverse=True):
        min(parts, key=len).extend(members)
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]


def balanced(groups: Sequence[str], fractions: Sequence[float], seed: int) -> Parts:
    """Groups in a seeded order fill test, then valid, then train; one that would fill over half of a small part trains."""
    total = len(groups)
    _, valid_share, test_share = fractions
    wanted = {name: share * total for name, share in ((TEST, test_share), (VALID, valid_share)) if share}
    parts: dict[str, list[int]] = {TRAIN: [], VALID: [], TEST: []}
    for members in _members(groups, seed):
        for name, size in wanted.items():
            if len(members) <= max(1, size / 2) and len(parts[name]) + len(members) <= max(1, round(size)):
                parts[name] += members
                break
        else:
            parts[TRAIN] += members
    return {name: np.sort(np.array(part, dtype=np.int64)) for name, part in parts.items()}


def _fold(parts: Sequence[np.ndarray], k: int, groups: Sequence[str], share: float, seed: int) -> Parts:
    rest = np.sort(np.concatenate([part for i, part in enumerate(parts) if i != k]))
    train, valid = carved(rest, groups, round(share * len(groups)), seed + 1)
    return {TRAIN: train, VALID: valid, TEST: parts[k]}


def carved(molecules: np.ndarray, groups: Sequence[str], size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(the rest, about `size` molecules of whole groups drawn at random; at least one group)."""
    taken: list[int] = []
    drawn = _members([groups[i] for i in molecules], seed)
    for members in drawn:
        if len(taken) + len(members) <= max(1, size):
            taken += members
    taken = taken or min(drawn, key=len)
    chosen = np.zeros(len(molecules), dtype=bool)
    chosen[taken] = True
    return molecules[~chosen], molecules[chosen]


def _prescribed(store: Store, settings: Settings) -> Parts:
    where = f"column {settings.split_column!r}" if settings.split_column else str(store.path)
    return _completed(store, {name: np.asarray(store.split(name)) for name in store.splits}, settings, where)


def _completed(store: Store, fold: Parts, settings: Settings, where: str) -> Parts:
    """A given split; without one that selects, a tenth of the training molecules does."""
    if TRAIN not in fold:
        raise UserError(f"{where}: no split is called train, but {', '.join(fold)}")
    unknown = [name for name in fold if name not in (TRAIN, VALID, TEST)]
    if unknown:
        raise UserError(f"{where}: splits are train, valid and test, got {', '.join(unknown)}")
    result = {name: fold.get(name, np.zeros(0, np.int64)) for name in (TRAIN, VALID, TEST)}
    if len(result[VALID]) == 0 and len(result[TRAIN]) > 1:
        train_share, valid_share, _ = settings.fractions
        share = valid_share / (train_share + valid_share)
        keys = groups_of(smiles_of(store), "random")
        result[TRAIN], result[VALID] = carved(result[TRAIN], keys, round(share * len(result[TRAIN])), settings.seed)
    return result


def _sizes(fold: Parts) -> str:
    return ", ".join(f"{name} {len(indices)}" for name, indices in fold.items())
