"""Tables that were run become part of the project: their CSV in results/, and a page of all of them in docs/."""

import csv
from pathlib import Path

from grid import HERE, Plan
from grid_runs import ROOT
from table import ABSENT, OURS, Entry, cells_of, notes_of

from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically

RESULTS, PAGE = HERE / "results", ROOT / "docs" / "paper_tables.md"
HEAD = "<!-- Made by `examples/paper/run.sh TABLE --scale SCALE --only publish` from examples/paper/results/: not to be edited. -->"
ABOUT = """# The paper's tables, run here

`examples/paper/run.sh` pretrains and finetunes all rows of a table of the paper, at any size (its README says how).
These are the tables that were run so far, in the sizes that were at hand."""


def publish(plan: Plan, out: Path) -> None:
    """Takes a table's CSV from `out`, and makes the page again.

    Raises:
        UserError: the table was not written yet.
    """
    found = out / f"{plan.table}.csv"
    if not found.is_file():
        raise UserError(f"no {found}; make it first: run.sh {plan.table} --scale {plan.scale_name}")
    kept = RESULTS / plan.scale_name / found.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, found.read_text(encoding="utf-8"))
    write_atomically(PAGE, page(RESULTS))
    print(f"written: {kept}, {PAGE}")


def page(results: Path) -> str:
    """All tables of a folder of SCALE/TABLE.csv as a page in Markdown; the same files give the same page."""
    parts = [HEAD, "", ABOUT]
    for path in sorted(results.glob("*/*.csv"), key=lambda path: (path.parent.name, int(path.stem.removeprefix("table")))):
        parts += ["", *_section(Plan(path.stem, path.parent.name), entries_of(path))]
    return "\n".join(parts) + "\n"


def entries_of(path: Path) -> list[Entry]:
    """The lines of a table's CSV that have a number."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["source"] != ABSENT]
    texts = ("method", "source", "data", "metric", "commit", "date")
    wholes = ("seeds", "trial")
    return [
        from_json(
            Entry,
            {
                name: cell if name in texts else int(cell) if name in wholes else float(cell)
                for name, cell in row.items()
                if name != "table" and cell
            },
            path.name,
        )
        for row in rows
    ]


def _section(plan: Plan, entries: list[Entry]) -> list[str]:
    """A table with its notes."""
    header, rows = cells_of(plan, entries)
    own = [entry for entry in entries if entry.source == OURS]
    dates = sorted({entry.date for entry in own})
    commits = sorted({commit for entry in own for commit in entry.commit.split()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return [
        f"## Table {plan.table.removeprefix('table')}, scale `{plan.scale_name}`",
        "",
        f"{plan.grid.about}. Run {when}, commit {', '.join(commits)}; `examples/paper/results/{plan.scale_name}/{plan.table}.csv`.",
        "",
        *(_line(cells) for cells in (header, ["---"] * len(header))),
        *(_line([f"**{cell}**" if cell and row[1] == OURS else cell for cell in row]) for row in rows),
        "",
        *(f"* {note}" for note in (told_apart(own), *notes_of(plan))),
    ]


def told_apart(own: list[Entry]) -> str:
    """Whether the rows run here differ by more than their intervals, as a sentence."""
    bounds: dict[str, list[tuple[float, float]]] = {}
    for entry in own:
        if entry.low is not None and entry.high is not None:
            bounds.setdefault(entry.data, []).append((entry.low, entry.high))
    apart = [data for data, pairs in bounds.items() if max(low for low, _ in pairs) > min(high for _, high in pairs)]
    found = f"overlap but for {', '.join(apart)}" if apart else "overlap on every data set: this size does not tell them apart"
    return f"The intervals of the rows run here {found}."


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
