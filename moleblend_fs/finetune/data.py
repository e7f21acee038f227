"""DATA of any format -> a store with the targets as labels, made once in the run's folder."""

import fnmatch
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from moleblend_fs.checkpoint.weights_by_name import WITH_HYDROGENS
from moleblend_fs.chem.conformers import ConformerOptions
from moleblend_fs.chem.mol_to_graph import MAX_ATOMS
from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.model_description import reads_structures
from moleblend_fs.data.record import summary
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import MANIFEST, Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved
from moleblend_fs.finetune.settings import Settings, flag
from moleblend_fs.finetune.store_cache import CONFORMERS, obtain_store
from moleblend_fs.sources import csv_and_smiles, sdf
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.delimited import Table, alike
from moleblend_fs.sources.excel_parquet import as_text, named
from moleblend_fs.sources.labels import UNSAID, parse_label
from moleblend_fs.sources.molecules_to_predict import LIST_SUFFIXES
from moleblend_fs.sources.run import preprocess
from moleblend_fs.sources.sdf_records import item_names
from moleblend_fs.sources.smiles_column import find_smiles_column, spellings
from moleblend_fs.wording import counted, verb

PACKED = (".gz", ".xz", ".bz2", ".zip")
SDF = (".sdf", ".sd", ".mol")
COPY = "data.csv"
NAMED = 5
"""Rows that a message names, at most."""
UNIT = re.compile(r"[\[(]([^\[\]()]+)[\])]\s*$")
"""A unit at the end of a column's name: "logS (mol/L)", "gap [eV]"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A store, and what it was made of.

    Attributes:
        store: the molecules. targets: labels to learn.
        table: file whose columns stand in the outputs, or None where the data were a store.
        notes: what the user should be told of the input.
    """

    store: Store
    targets: tuple[LabelSpec, ...]
    table: Path | None
    notes: tuple[str, ...]


def is_store(path: Path) -> bool:
    """Whether a path is the folder of a store."""
    return (path / MANIFEST).is_file()


def ending(path: Path) -> str:
    """A file's last ending in lower case, that of its packing aside."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def smiles_column(path: Path, header: list[str], asked: str) -> str:
    """The column of SMILES: the one that was asked for, or that has one of the usual names; UserError names those that there are."""
    if asked:
        return asked
    if (found := find_smiles_column(header)) is not None:
        return found
    raise UserError(f"{path}: which column has the SMILES? Name it with --smiles-column; there are: {', '.join(header[:20])}")


def targets_of(asked: tuple[str, ...], kind: str, columns: list[str], path: Path) -> list[LabelSpec]:
    """The labels that --target asks for: columns, patterns of them, or several separated by commas.

    Raises:
        UserError: no target, or one that is no column or given as two kinds.
    """
    names: list[str] = []
    for text in asked:
        if any(text == column or text.startswith(f"{column}:") for column in columns):
            names.append(text)
            continue
        for part in text.split(","):
            names += fnmatch.filter(columns, part.strip()) or [part.strip()]
    if not names:
        shown = ", ".join(columns[:20]) + (f", ... ({len(columns)} in all)" if len(columns) > 20 else "")
        raise UserError(f"{path}: which column is to be learned? Name it with --target; there are: {shown}")
    labels = [parse_label(name, columns) for name in dict.fromkeys(names)]
    missing = [label.name for label in labels if label.name not in columns]
    if missing:
        there = f"{', '.join(columns[:40])}{alike(missing, columns)}"
        raise UserError(f"{path}: --target: no column {', '.join(map(repr, missing))}; there are: {there}")
    names = [label.name for label in labels]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{path}: --target: {', '.join(map(repr, twice))} is given as several kinds or units")
    return [replace(label, kind=label.kind or kind, unit=label.unit or unit_of(label.name)) for label in labels]


def unit_of(name: str) -> str:
    """The unit that a column's name ends in, "" for none."""
    found = UNIT.search(name)
    return found[1].strip() if found else ""


@contextmanager
def told_as_target() -> Iterator[None]:
    """Messages of sources name the option that this command has."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--label ", "--target ")) from error


def open_source(path: Path, settings: Settings, hydrogens: str, cache: Path | None = None) -> Source:
    """The file as a source whose labels are the targets, split as a column says or not at all."""
    count = settings.conformers if reads_structures(settings.inputs) and ending(path) not in SDF else 0
    build = BuildOptions(
        hydrogens=hydrogens == "explicit",
        conformers=ConformerOptions(count=count),
        max_atoms=settings.max_atoms or MAX_ATOMS,
        conformer_cache=None if cache is None else resolved(cache / CONFORMERS),
    )
    splitter = Splitter(kind="prescribed" if settings.split == "column" else "none")
    column = settings.split_column or None
    if column in settings.targets:
        raise UserError(f"{path}: {column!r} is given as --target and as --split-column; a column can be one of them")
    with told_as_target():
        if ending(path) in SDF:
            labels = targets_of(settings.targets, settings.kind, list(item_names(path)), path)
            return sdf.SdfSource(path, labels=labels, build=build, splitter=splitter, split_item=column)
        header = Table(path, [[settings.smiles_column] if settings.smiles_column else spellings()]).header
        if ending(path) in LIST_SUFFIXES and not settings.smiles_column and find_smiles_column(header) is None:
            raise UserError(f"{path}: a list of SMILES has no values to learn from; give a table with a header, SMILES and values")
        smiles = smiles_column(path, header, settings.smiles_column)
        if smiles == column:
            raise UserError(f"{path}: --split-column {column}: that is the column of SMILES")
        table = Table(path, [[smiles]])
        others = [name for name in table.header if name not in (smiles, column)]
        labels = targets_of(settings.targets, settings.kind, others, path)
        return csv_and_smiles.CsvSource(table, smiles_column=smiles, labels=labels, build=build, splitter=splitter, split_column=column)


def prepare(
    path: Path, settings: Settings, folder: Path, hydrogens: str, *, workers: int, progress: bool, cache: Path | None = None
) -> Data:
    """The store of DATA: itself where it is one, otherwise made in `folder`, once.

    Args:
        cache: folder of stores and conformers that earlier runs made, see `store_cache`; None for none.

    Raises:
        UserError: DATA or a target cannot be read, or is ambiguous.
    """
    data = _of_store(path, settings) if is_store(path) else _of_table(path, settings, folder, hydrogens, workers, progress, cache)
    if settings.inputs == "3d":
        _check_structures(path, data)
    return data


def _check_structures(path: Path, data: Data) -> None:
    """UserError names rows whose molecule has no 3D structure: a model of structures alone has nothing to read there."""
    store = data.store
    if (lacking := store.manifest.molecules - store.manifest.molecules_with_3d) == 0:
        return
    without = (row for index, row in enumerate(store.source_row.tolist()) if not summary(store.record(index)).conformers)
    rows = ", ".join(map(str, islice(without, NAMED)))
    raise UserError(
        f"{path}: --inputs 3d, but {counted(lacking, 'molecule has', 'molecules have')} no 3D structure (counted from 0, "
        f"{verb(lacking, 'row', 'rows')} {rows}{', ...' if lacking > NAMED else ''}); leave {verb(lacking, 'it', 'them')} out, or take "
        "--inputs 2d+3d, which shows such molecules in 2D"
    )


def _of_table(path: Path, settings: Settings, folder: Path, hydrogens: str, workers: int, progress: bool, cache: Path | None) -> Data:
    told = ""
    if (folder / "store" / MANIFEST).is_file():
        table, note = as_text(path, folder / COPY)
    else:
        source, table, note = opened(path, settings, folder, hydrogens, cache)
        make = partial(preprocess, source, folder / "store", workers=workers, progress=progress)
        with named(table, path):
            told = obtain_store(source, folder / "store", make, folder=cache)
    store = Store(folder / "store")
    notes = tuple(line.replace(str(table), str(path)) for line in (note, *store.manifest.notes, told) if line)
    return Data(store=store, targets=store.manifest.labels, table=table, notes=notes)


def opened(path: Path, settings: Settings, folder: Path, hydrogens: str, cache: Path | None = None) -> tuple[Source, Path, str]:
    """(DATA that is no store as a source, the text that is read, what is to be said of it); the table is read through, but for molecules.

    Raises:
        UserError: DATA or a target cannot be read, or is ambiguous.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    table, note = as_text(path, folder / COPY)
    with named(table, path):
        source = open_source(table, settings, hydrogens, cache)
        _one_kind(source.labels)
    return source, table, note


def _of_store(path: Path, settings: Settings) -> Data:
    store = Store(path)
    _check_made(path, store, settings)
    labels = {label.name: label for label in store.manifest.labels}
    with told_as_target():
        chosen = targets_of(settings.targets or ("*",), settings.kind, list(labels), path)
    targets = tuple(labels[label.name] for label in chosen)
    if other := [label for label, stored in zip(chosen, targets, strict=True) if label.kind not in (UNSAID, stored.kind)]:
        raise UserError(
            f"{path}: {other[0].name!r} is stored as {labels[other[0].name].kind}, not {other[0].kind}; make a store of that kind"
        )
    _one_kind(targets)
    return Data(store=store, targets=targets, table=None, notes=())


def _check_made(path: Path, store: Store, settings: Settings) -> None:
    """UserError for settings of how molecules are read and made: those of a store are."""
    for name in ("smiles_column", "split_column", "max_atoms"):
        if value := getattr(settings, name):
            raise UserError(
                f"{path} is a store: {flag(name)} {value} is for tables; leave it out (--split store takes the store's own split)"
            )
    if settings.conformers > 1:
        raise UserError(f"{path} is a store: --conformers {settings.conformers} is for tables; moleblend preprocess makes them")
    made = TrainedOn.of(store.manifest).hydrogens
    if settings.hydrogens and made in WITH_HYDROGENS and made != settings.hydrogens:
        raise UserError(
            f"--hydrogens {settings.hydrogens}, but the store {path} was made {WITH_HYDROGENS[made]}; moleblend preprocess makes another"
        )


def _one_kind(labels: tuple[LabelSpec, ...]) -> None:
    kinds = {label.kind for label in labels} - {UNSAID}
    if len(kinds) > 1:
        told = ", ".join(f"{label.name} ({label.kind})" for label in labels)
        raise UserError(f"the targets of one model must be all quantities or all classes, got {told}; learn them in two runs")
