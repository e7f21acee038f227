"""Draw from results.csv what is shown of it: benchmarks/RESULTS.md as a whole, and in other pages what stands between marks.

<!-- rows: NAME -->       a benchmark's last run on a CPU: a line a case, a column a metric
<!-- picture: NAME -->    its ratios ("x"), with their aims
<!-- computed: NAME -->   a table of benchmarks/computed_tables.py
<!-- end -->
"""

import argparse
import csv
import re
from pathlib import Path

from benchmarks.computed_tables import TABLES
from benchmarks.harness import RESULTS, ROOT, Row

PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
"""Where marks may stand."""
ALL = ROOT / "benchmarks" / "RESULTS.md"
FIGURES = ROOT / "docs" / "figures"
BLOCK = re.compile(r"<!-- (rows|picture|computed): (\w+) -->\n.*?<!-- end -->", re.DOTALL)
HEAD = """# Results

Every benchmark's last run on each kind of device, drawn from `results.csv` by `python -m benchmarks report`. CPU seconds are those of
one thread. Ratios are of runs one after the other, or in turn where it says so. What the figures mean stands in `docs/performance.md`.
"""


def main(args: argparse.Namespace) -> list[Row]:
    rows = read(RESULTS)
    ALL.write_text(all_of(rows))
    for page in PAGES:
        text = page.read_text()
        page.write_text(fill(text, rows, page))
        for kind, name in BLOCK.findall(text):
            if kind == "picture":
                draw(last_run(rows, name, "cpu"), figure(name))
    return []


def read(path: Path) -> list[dict[str, str]]:
    """All rows of the table, oldest first."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def all_of(rows: list[dict[str, str]]) -> str:
    """The page with all benchmarks."""
    parts = [HEAD]
    for name in sorted({row["benchmark"] for row in rows}):
        for device in ("cpu", "cuda"):
            if chosen := last_run(rows, name, device):
                parts.append(f"## {name}, {device}\n\n{circumstances(chosen)}\n\n{table(chosen)}\n")
    return "\n".join(parts)


def fill(page: str, rows: list[dict[str, str]], path: Path) -> str:
    """The page with what stands between its marks made anew."""

    def block(match: re.Match) -> str:
        kind, name = match.groups()
        if kind == "computed":
            content = TABLES[name]()
        elif kind == "rows":
            chosen = last_run(rows, name, "cpu")
            content = f"{pivot(chosen)}\n\n{circumstances(chosen)}" if chosen else f"*`python -m benchmarks {name}` has no rows yet.*"
        else:
            content = f"![ratios of benchmark {name}]({figure(name).relative_to(path.parent)})"
        return f"<!-- {kind}: {name} -->\n{content}\n<!-- end -->"

    return BLOCK.sub(block, page)


def last_run(rows: list[dict[str, str]], name: str, device: str) -> list[dict[str, str]]:
    """Rows of a benchmark from the commit that it was last run at; of repeated ones the last."""
    # Processors are named with their cores, GPUs without.
    mine = [r for r in rows if r["benchmark"] == name and (" cores" in r["device"]) == (device == "cpu")]
    mine = [r for r in mine if r["commit"] == mine[-1]["commit"]]
    return list({(r["case"], r["metric"]): r for r in mine}.values())


def circumstances(rows: list[dict[str, str]]) -> str:
    """Device, versions, commit, date, and what else the machine did, of a run."""
    first = rows[0]
    busy = [float(r["others"]) for r in rows if r.get("others")]
    beside = f"; other programs kept {min(busy):.1f} to {max(busy):.1f} cores busy" if busy else ""
    return f"{first['device']}; {first['versions']}; commit {first['commit']}, {first['date']}{beside}"


def number(value: str) -> str:
    """A value as people read it: 4 digits, thousands apart."""
    return f"{float(value):,.4g}" if abs(float(value)) < 10_000 else f"{float(value):,.0f}"


def table(rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table, the median with its 20 % and 80 % quantiles where there were repeats."""
    lines = ["| case | metric | median | 20-80 % | unit | aim |", "| --- | --- | ---: | --- | --- | --- |"]
    for r in rows:
        spread = f"{number(r['p20'])} - {number(r['p80'])}" if int(r["repeats"]) > 1 else ""
        lines.append(f"| {r['case']} | {r['metric']} | {number(r['p50'])} | {spread} | {r['unit']} | {r['target']} |")
    return "\n".join(lines)


def pivot(rows: list[dict[str, str]]) -> str:
    """Medians, a line a case and a column a metric, or the other way round where there are more metrics than cases."""
    titles = {r["metric"]: f"{r['metric']} ({r['unit']})" if r["unit"] else r["metric"] for r in rows}
    cells = {(r["case"], titles[r["metric"]]): number(r["p50"]) for r in rows}
    lines, columns = list(dict.fromkeys(r["case"] for r in rows)), list(dict.fromkeys(titles.values()))
    if len(columns) > len(lines):
        lines, columns = columns, lines
        cells = {(metric, case): value for (case, metric), value in cells.items()}
    body = [[line, *(cells.get((line, column), "") for column in columns)] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (["", *columns], ["---"] + ["---:"] * len(columns), *body))


def figure(name: str) -> Path:
    return FIGURES / f"performance_{name}_cpu.svg"


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Ratios as bars on a logarithmic axis, with a mark where the aim is."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "moleblend"  # the same rows give the same file
    ratios = [r for r in rows if r["unit"] == "x"]
    picture, axes = plt.subplots(figsize=(10, 0.5 + 0.32 * len(ratios)), layout="constrained")
    for place, r in enumerate(reversed(ratios)):
        axes.barh(place, float(r["p50"]), color="#4477aa", height=0.7)
        axes.annotate(f" {number(r['p50'])}", (float(r["p50"]), place), va="center", fontsize=7)
        if aim := re.search(r"[\d.]+", r["target"]):
            axes.plot([float(aim.group())] * 2, [place - 0.45, place + 0.45], color="#cc3311", linewidth=2)
    axes.set_yticks(range(len(ratios)), [f"{r['case']}: {r['metric']}" for r in reversed(ratios)], fontsize=6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("ratio; red: what it should reach")
    path.parent.mkdir(exist_ok=True)
    picture.savefig(path, metadata={"Date": None})
    plt.close(picture)
