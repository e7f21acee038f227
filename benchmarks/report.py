"""Draw the tables and pictures of docs/performance.md from results.csv: what stands between its marks is written anew.

<!-- table: NAME cpu -->     all rows of the benchmark's last run on that kind of device
<!-- picture: NAME cpu -->   its ratios ("x"), with their aims
<!-- end -->
"""

import argparse
import csv
import re
from pathlib import Path

from benchmarks.harness import RESULTS, ROOT, Row

PAGE = ROOT / "docs" / "performance.md"
BLOCK = re.compile(r"<!-- (table|picture): (\w+) (cpu|cuda) -->\n.*?<!-- end -->", re.DOTALL)


def main(args: argparse.Namespace) -> list[Row]:
    rows = read(RESULTS)
    PAGE.write_text(fill(PAGE.read_text(), rows))
    for kind, name, device in BLOCK.findall(PAGE.read_text()):
        chosen = last_run(rows, name, device)
        if kind == "picture" and chosen:
            draw(chosen, figure(name, device))
    return []


def read(path: Path) -> list[dict[str, str]]:
    """All rows of the table, oldest first."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def fill(page: str, rows: list[dict[str, str]]) -> str:
    """The page with its blocks made from the rows."""

    def block(match: re.Match) -> str:
        kind, name, device = match.groups()
        chosen = last_run(rows, name, device)
        if not chosen:
            content = f"*`python -m benchmarks {name} --device {device}` has no rows yet.*"
        elif kind == "table":
            content = table(chosen)
        else:
            content = f"![ratios of benchmark {name}]({figure(name, device).relative_to(PAGE.parent)})"
        return f"<!-- {kind}: {name} {device} -->\n{content}\n<!-- end -->"

    return BLOCK.sub(block, page)


def last_run(rows: list[dict[str, str]], name: str, device: str) -> list[dict[str, str]]:
    """Rows of a benchmark from the commit that it was last run at; of repeated ones the last."""
    # Processors are named with their cores, GPUs without.
    mine = [r for r in rows if r["benchmark"] == name and (" cores" in r["device"]) == (device == "cpu")]
    mine = [r for r in mine if r["commit"] == mine[-1]["commit"]]
    return list({(r["case"], r["metric"]): r for r in mine}.values())


def number(value: str) -> str:
    """A value as people read it: 4 digits, thousands apart."""
    return f"{float(value):,.4g}" if abs(float(value)) < 10_000 else f"{float(value):,.0f}"


def table(rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table, the median with its 20 % and 80 % quantiles where there were repeats."""
    lines = [f"{rows[0]['device']}; {rows[0]['versions']}; commit {rows[0]['commit']}, {rows[0]['date']}", ""]
    lines += ["| case | metric | median | 20-80 % | unit | aim |", "| --- | --- | ---: | --- | --- | --- |"]
    for r in rows:
        spread = f"{number(r['p20'])} - {number(r['p80'])}" if int(r["repeats"]) > 1 else ""
        lines.append(f"| {r['case']} | {r['metric']} | {number(r['p50'])} | {spread} | {r['unit']} | {r['target']} |")
    return "\n".join(lines)


def figure(name: str, device: str) -> Path:
    return PAGE.parent / "figures" / f"performance_{name}_{device}.svg"


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
