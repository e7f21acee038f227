"""MoleculeNet files as tables of molecules, cleaned in the open, and their splits."""

import csv
import hashlib
import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from plan import Cell, Plan
from rdkit import Chem

from moleblend_fs.chem.identity import molecule_key
from moleblend_fs.chem.parse import parse_smiles, silence_rdkit
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.split_file import SplitFile
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, whole_file, write_atomically
from moleblend_fs.finetune.folds import balanced, carved, dealt, groups_of
from moleblend_fs.sources.moleculenet import SETS, SMILES_COLUMNS
from moleblend_fs.sources.text import TextFile

FRACTIONS = (0.8, 0.1, 0.1)
AGREE = 0.1
"""Values of one molecule agree where they lie within so much of the labels' standard deviation; their mean is taken."""


@dataclass(kw_only=True)
class Cleaning:
    """What became of a file's rows.

    Attributes:
        rows: read. invalid: (row, reason) that gave no molecule. unlabelled: without any label.
        merged: rows that a molecule's first row stands for, since their labels agree. conflicting: rows of molecules whose labels do not.
        kept: molecules of the cleaned table. sampled: rows that were left out, for a small scale.
    """

    rows: int = 0
    sampled: int = 0
    invalid: list[tuple[int, str]] = field(default_factory=list)
    unlabelled: int = 0
    merged: int = 0
    conflicting: int = 0
    kept: int = 0


def read_set(data: Path, name: str) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """(labels, rows of (SMILES, values, NaN where missing)) of a MoleculeNet file in a folder."""
    path = next((path for path in (data / f"{name}.csv", data / f"{name}.csv.gz") if path.is_file()), None)
    if path is None:
        raise UserError(f"no {data}/{name}.csv or {name}.csv.gz; say where the MoleculeNet files are: DATA=FOLDER")
    table = list(csv.DictReader(TextFile(path).lines()))
    header = list(table[0]) if table else []
    smiles = next((column for column in SMILES_COLUMNS if column in header), None)
    known = SETS[name].labels or {}
    columns = [next((column for column in names if column in header), None) for names in known.values()]
    if smiles is None or None in columns or not columns:
        raise UserError(f"{path}: columns {', '.join(SMILES_COLUMNS)} and {', '.join(known)} are needed, it has {', '.join(header[:20])}")
    return list(known), [(row[smiles] or "", [_value(row[column]) for column in columns if column]) for row in table]


def _value(text: str | None) -> float:
    return float(text) if text and text.strip() else math.nan


def clean(
    rows: list[tuple[str, list[float]]], kind: str, molecules: int
) -> tuple[Cleaning, list[tuple[str, list[float]]], list[tuple[str, list[float]]]]:
    """(what became of the rows, the cleaned ones, all that are molecules).

    Rows of one molecule (the same isomeric SMILES of RDKit) become one where their labels agree: the same classes, or values within `AGREE`
    standard deviations; otherwise all of them are left out.
    """
    silence_rdkit()
    found = Cleaning(rows=len(rows))
    picked = sampled(rows, molecules)
    found.sampled = len(rows) - len(picked)
    spread = np.nanstd(np.array([values for _, values in rows]), axis=0)
    groups: dict[str, list[tuple[str, list[float]]]] = defaultdict(list)
    original = []
    for number in picked:
        smiles, values = rows[number]
        molecule = parse_smiles(smiles)
        if isinstance(molecule, Failure):
            found.invalid.append((number, molecule.reason))
        elif all(map(math.isnan, values)):
            found.unlabelled += 1
        else:
            original.append((Chem.MolToSmiles(molecule), values))
            groups[molecule_key(molecule)].append(original[-1])
    kept = []
    for group in groups.values():
        labels = np.array([values for _, values in group])
        allowed = 0.0 if kind == "classification" else AGREE * spread
        apart = np.nanmax(labels, axis=0, initial=-math.inf) - np.nanmin(labels, axis=0, initial=math.inf)
        if (apart > allowed).any():
            found.conflicting += len(group)
            continue
        found.merged += len(group) - 1
        present = ~np.isnan(labels).all(axis=0)
        mean = np.full(labels.shape[1], math.nan)
        mean[present] = np.nanmean(labels[:, present], axis=0)
        kept.append((group[0][0], mean.tolist()))
    found.kept = len(kept)
    return found, kept, original


def sampled(rows: list[tuple[str, list[float]]], molecules: int) -> list[int]:
    """Rows with the smallest hashes, in their order; all where `molecules` is 0."""
    if not molecules:
        return list(range(len(rows)))
    digests = [hashlib.sha256(smiles.encode()).digest() for smiles, _ in rows]
    return sorted(sorted(range(len(rows)), key=lambda i: (digests[i], i))[:molecules])


def prepare(plan: Plan, data: Path, out: Path) -> None:
    """Tables and splits of all data sets; those that are there are left alone."""
    for name in plan.scale.data:
        cells = [next((c for c in plan.cells if (c.data, c.version) == (name, version)), None) for version in plan.scale.versions]
        if all(cell is None or (out / "splits" / "B" / f"{name}-{cell.version}" / "done").is_file() for cell in cells):
            continue
        labels, rows = read_set(data, name)
        found, kept, original = clean(rows, SETS[name].kind, plan.scale.molecules)
        write_atomically(out / "data" / f"{name}-cleaning.json", json.dumps(asdict(found), indent=1) + "\n")
        for version in plan.scale.versions:
            table = kept if version == "cleaned" else original
            path = out / "data" / f"{name}-{version}.csv"
            with whole_file(path) as stream:
                lines = csv.writer(stream, lineterminator="\n")
                lines.writerow(["smiles", *labels])
                lines.writerows([smiles, *("" if math.isnan(value) else f"{value:.10g}" for value in values)] for smiles, values in table)
            split(plan, out, name, version, [smiles for smiles, _ in table])


def split(plan: Plan, out: Path, name: str, version: str, smiles: list[str]) -> None:
    """Protocol A: scaffolds with stereochemistry, largest first. B: whole scaffolds at random, a fold at a time or anew each time."""
    groups = groups_of(smiles, "scaffold")
    rows = np.arange(len(smiles))
    scaffold = Splitter(kind="scaffold", fractions=FRACTIONS)(rows=rows, prescribed=[None] * len(rows), scaffolds=groups, keys=groups)
    folds = {("A", "scaffold"): scaffold}
    scale = plan.scale
    for repeat in range(scale.repeats):
        if scale.folds == 1:
            folds["B", f"repeat{repeat}"] = balanced(groups, FRACTIONS, repeat)
            continue
        parts = dealt(groups, scale.folds, repeat)
        for k, test in enumerate(parts):
            rest = np.sort(np.concatenate([part for i, part in enumerate(parts) if i != k]))
            train, valid = carved(rest, groups, round(FRACTIONS[1] * len(rows)), repeat + 1)
            folds["B", f"repeat{repeat}-fold{k}"] = {"train": train, "valid": valid, "test": test}
    for (protocol, fold), parts_ in folds.items():
        if empty := [part for part, rows_ in parts_.items() if not len(rows_)]:
            raise UserError(f"{name}, {version}, protocol {protocol}, {fold}: no molecules for {empty[0]}; there are too few scaffolds")
        cell = Cell(protocol=protocol, data=name, version=version, split=fold, seed=0, method="")
        SplitFile(folds={"fold0": parts_}, about={"kind": "scaffold" if protocol == "A" else "scaffold-balanced"}).save(cell.splits(out))
    (out / "splits" / "B" / f"{name}-{version}" / "done").touch()


def hash_of(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def split_hash(path: Path) -> str:
    """Of the rows of a file of splits, however it is written."""
    return hashlib.sha256(as_json(json.loads(path.read_text())["folds"]).encode()).hexdigest()
