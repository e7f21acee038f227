"""Tables and splits of all data sets: what every method is trained, selected and tested on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from cleaning import clean, read_set, sampled, write_table
from methods import DATA_SETS
from plan import Cell, Plan
from qm9_gap import prepare_qm9

from moleblend_fs.data.split_file import SplitFile
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, write_atomically
from moleblend_fs.finetune.folds import Parts, balanced, carved, dealt, groups_of

FRACTIONS = (0.8, 0.1, 0.1)


def prepare(plan: Plan, data: Path, out: Path) -> None:
    """Tables and splits of all data sets; those that are there are left alone."""
    for name in dict.fromkeys(cell.data for cell in plan.cells):
        done = out / "data" / f"{name}-splits-done"
        if done.is_file():
            continue
        if DATA_SETS[name].qm9:
            found, splits = prepare_qm9(plan, name, out)
            save(out, name, "cleaned", splits)
        else:
            labels, rows = read_set(data, name)
            found, kept, original = clean(rows, DATA_SETS[name].kind, sampled(rows, plan.scale.molecules))
            for version, molecules in (("cleaned", kept), ("original", original)):
                if version in plan.scale.versions:
                    write_table(out / "data" / f"{name}-{version}.csv", labels, molecules)
                    save(out, name, version, scaffold_splits(plan, [each.smiles for each in molecules]))
        write_atomically(out / "data" / f"{name}-cleaning.json", json.dumps(asdict(found), indent=1) + "\n")
        done.touch()


def scaffold_splits(plan: Plan, smiles: Sequence[str]) -> dict[tuple[str, str], Parts]:
    """(protocol, split) -> rows.

    A: scaffolds with stereochemistry, largest first. B: whole scaffolds at random, a fold at a time or anew each time.
    """
    groups = groups_of(smiles, "scaffold")
    rows = np.arange(len(smiles))
    scaffold = Splitter(kind="scaffold", fractions=FRACTIONS)(rows=rows, prescribed=[None] * len(rows), scaffolds=groups, keys=groups)
    splits: dict[tuple[str, str], Parts] = {("A", "scaffold"): scaffold}
    scale = plan.scale
    for repeat in range(scale.repeats):
        if scale.folds == 1:
            splits["B", f"repeat{repeat}"] = balanced(groups, FRACTIONS, repeat)
            continue
        parts = dealt(groups, scale.folds, repeat)
        for k, test in enumerate(parts):
            rest = np.sort(np.concatenate([part for i, part in enumerate(parts) if i != k]))
            train, valid = carved(rest, groups, round(FRACTIONS[1] * len(rows)), repeat + 1)
            splits["B", f"repeat{repeat}-fold{k}"] = {"train": train, "valid": valid, "test": test}
    return splits


def save(out: Path, name: str, version: str, splits: dict[tuple[str, str], Parts]) -> None:
    """A file for each split. UserError for a part without molecules."""
    for (protocol, split), parts in splits.items():
        if empty := [part for part, rows in parts.items() if not len(rows)]:
            raise UserError(f"{name}, {version}, protocol {protocol}, {split}: no molecules for {empty[0]}; there are too few scaffolds")
        cell = Cell(protocol=protocol, data=name, version=version, split=split, seed=0, method="")
        SplitFile(folds={"fold0": parts}, about={"kind": split.rstrip("0123456789")}).save(cell.splits(out))


def rows_of(path: Path) -> Parts:
    """Part -> rows of the table, of a file that `save` wrote."""
    return {name: np.array(rows, dtype=int) for name, rows in json.loads(path.read_text())["folds"]["fold0"].items()}


def split_hash(path: Path) -> str:
    """Of the rows of a file of splits, however it is written."""
    return hashlib.sha256(as_json(json.loads(path.read_text())["folds"]).encode()).hexdigest()
