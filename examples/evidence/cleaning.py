"""Files of data sets as tables of molecules, cleaned in the open."""

import csv
import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.identity import molecule_key
from moleblend_fs.chem.parse import parse_smiles, silence_rdkit
from moleblend_fs.data.graph import Failure
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file
from moleblend_fs.sources.moleculenet import SETS, SMILES_COLUMNS
from moleblend_fs.sources.text import TextFile

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


class Molecule(NamedTuple):
    """A molecule of a table: its (first) row in the file, its SMILES, and its labels, NaN where missing."""

    row: int
    smiles: str
    values: list[float]


Rows = list[tuple[str, list[float]]]
"""SMILES and labels, as a file has them."""


def read_set(data: Path, name: str) -> tuple[list[str], Rows]:
    """(names of labels, rows) of a MoleculeNet file in a folder."""
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


def clean(rows: Rows, kind: str, picked: Sequence[int]) -> tuple[Cleaning, list[Molecule], list[Molecule]]:
    """(what became of the rows, the cleaned molecules, all rows that are molecules), in the order of what is picked.

    Rows of one molecule (the same isomeric SMILES of RDKit) become one where their labels agree: the same classes, or values within `AGREE`
    standard deviations; otherwise all of them are left out.
    """
    silence_rdkit()
    found = Cleaning(rows=len(rows), sampled=len(rows) - len(picked))
    spread = np.nanstd(np.array([values for _, values in rows]), axis=0)
    groups: dict[str, list[Molecule]] = defaultdict(list)
    original = []
    for number in picked:
        smiles, values = rows[number]
        molecule = parse_smiles(smiles)
        if isinstance(molecule, Failure):
            found.invalid.append((number, molecule.reason))
        elif all(map(math.isnan, values)):
            found.unlabelled += 1
        else:
            original.append(Molecule(number, Chem.MolToSmiles(molecule), values))
            groups[molecule_key(molecule)].append(original[-1])
    kept = []
    for group in groups.values():
        labels = np.array([each.values for each in group])
        allowed = 0.0 if kind == "classification" else AGREE * spread
        apart = np.nanmax(labels, axis=0, initial=-math.inf) - np.nanmin(labels, axis=0, initial=math.inf)
        if (apart > allowed).any():
            found.conflicting += len(group)
            continue
        found.merged += len(group) - 1
        present = ~np.isnan(labels).all(axis=0)
        mean = np.full(labels.shape[1], math.nan)
        mean[present] = np.nanmean(labels[:, present], axis=0)
        kept.append(group[0]._replace(values=mean.tolist()))
    found.kept = len(kept)
    return found, kept, original


def by_hash(smiles: Sequence[str]) -> list[int]:
    """Rows in an order that nothing but their SMILES decides."""
    digests = [hashlib.sha256(text.encode()).digest() for text in smiles]
    return sorted(range(len(smiles)), key=lambda i: (digests[i], i))


def sampled(rows: Rows, molecules: int) -> list[int]:
    """Rows with the smallest hashes, in their order; all where `molecules` is 0."""
    return sorted(by_hash([smiles for smiles, _ in rows])[: molecules or None])


def write_table(path: Path, labels: Sequence[str], molecules: Sequence[Molecule]) -> None:
    """A column `smiles` and one for each label, empty where a molecule lacks it."""
    with whole_file(path) as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(["smiles", *labels])
        lines.writerows([each.smiles, *("" if math.isnan(value) else f"{value:.10g}" for value in each.values)] for each in molecules)


def read_table(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """(SMILES, labels (molecules, targets), names of the targets)."""
    with path.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    labels = [[float(text) if text else math.nan for text in row[1:]] for row in rows]
    return [row[0] for row in rows], np.array(labels, dtype=np.float64).reshape(len(rows), len(header) - 1), header[1:]


def hash_of(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
