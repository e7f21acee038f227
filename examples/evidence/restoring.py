"""Rows of the committed table as finished runs of a folder that lacks them: of the same molecules, split, weights and settings alone.

Comparisons are of each run's score and need no predictions, so that runs.csv has all that is needed of a row.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from cleaning import hash_of
from plan import Cell, Plan, digest_of
from results import RESULTS, TOLD, Row, rows_of
from splitting import split_hash

from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.wording import counted, verb

WORDS = {"method", "dataset", "split", "metric", "unit", "settings", "software", "commit", "protocol", "data", "version", "key", "weights"}
WORDS |= {"split_hash", "data_hash", "weights_hash"}
"""Columns that are no numbers."""


def restore(plan: Plan, out: Path, committed: Path | None = None) -> str:
    """Write the plan's committed rows where their runs would leave them, each with its own commit; what became of all rows, in words.

    Args:
        out: a folder with tables and splits, see `splitting.prepare`. committed: another folder than `RESULTS`.

    Raises:
        UserError: there is no table, or it was made with other numbers of trials, options or members.
    """
    committed = committed or RESULTS
    try:
        rows, about = rows_of(committed), read_json(committed / "about.json")
    except READING as error:
        raise UserError(f"{committed}: no table to take rows from ({error})") from error
    for name in TOLD:
        if about.get(name) != (wanted := json.loads(json.dumps(getattr(plan.scale, name)))):
            raise UserError(f"{committed}: its rows are of {name} {about.get(name)}, scale {plan.scale_name} has {wanted}")
    asked, became = set(plan.cells), Counter[str]()
    for row in rows:
        content = _as_written(row)
        cell = Cell(**{each.name: content[each.name] for each in fields(Cell)})
        why = next(_reasons(plan, out, cell, row), "") if cell in asked else "of no run that is asked for"
        became[why] += 1
        if not why:
            write_atomically(cell.row(out), json.dumps(content, indent=1) + "\n")
    told = [f"{became.pop('', 0):,} of {counted(len(rows), 'row')} taken from {committed / 'runs.csv'}"]
    return "; ".join([*told, *(f"{number:,} left out, {verb(number, 'which is', 'which are')} {why}" for why, number in became.items())])


def _as_written(row: Row) -> dict[str, Any]:
    """A line of runs.csv as `cells.run_cell` wrote it and `results.collect` reads it; all scores but the first are lost."""
    content = {name: text if name in WORDS else json.loads(text) if text else None for name, text in row.items()}
    return {**content, "method": row["key"], "title": row["method"]}


def _reasons(plan: Plan, out: Path, cell: Cell, row: Row) -> Iterator[str]:
    """Why a row of a cell is not taken, the first that holds."""
    if cell.row(out).is_file():
        yield "there already"
    if row["data_hash"] != hash_of(cell.table(out)):
        yield "of other molecules or labels"
    if row["split_hash"] != split_hash(cell.splits(out)):
        yield "of another split"
    if cell.weights and row["weights_hash"] != digest_of(plan.weights[cell.weights]):
        yield f"of other weights {cell.weights}"
