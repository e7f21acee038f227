"""Numbers with units in the pages, and what stands behind each.

In prose and hand-written tables a number with a unit is the text of a link, `[330 meV][gap]`, whose definition at the end of the page
says where it is from:

    [gap]: ../benchmarks/results.csv "benchmark | case | metric"    a measurement: the row's median, of a clean commit
    [count]: ../benchmarks/budget.csv "base,pcqm4mv2,..."           a count: a whole line of another table, which has the number as a cell
    [limit]: ../moleblend_fs/sources/workers.py "ROW_TIMEOUT = 60"  a setting or an assertion: the text that holds it in that file of ours
    [peak]: https://...                                             somebody else's figure

Code (in backquotes, indented or fenced) and what `python -m benchmarks report` draws between marks need none.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import RESULTS
from benchmarks.report import BLOCK
from tests.docs.blocks import ROOT

WORDS = "half an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|sixty|ninety"
NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
TIME = r"us|ms|s|sec|seconds?|min|minutes?|hours?|h|days?"
SIZE = r"[kMGT]i?B|bytes?|kilobytes?|megabytes?|gigabytes?"
RATE = r"(?:[kMGT]i?B|[kMGTP]?FLOPS?|molecules|atoms|rows|updates|bytes)/(?:CPU )?(?:s|min|h|molecule|GPU)|[kMGTP]FLOPS?"
OTHER = r"%|x|times|meV|eV|kcal/mol|kJ/mol|hartree|CPU m?s|percent"
UNIT = rf"(?:{RATE}|{SIZE}|{OTHER}|{TIME})(?![\w/^*=]|-\w)"
RANGE = rf"{NUMBER}(?:(?: to | and | or | - |-| / |, ){NUMBER})*"
CLAIM = re.compile(
    rf"(?<![\w.,^/-])(?:(?P<range>{RANGE})[ \u00a0-]?(?P<unit>(?!x \d){UNIT})|(?P<words>(?:{WORDS})[ -](?:{TIME}|percent|%)\b))"
)
NAMED = re.compile(rf"\bin (?:meV|eV|GiB|MiB|MB|GB|ms|seconds|minutes|%|percent|molecules/s)(?: of [\w ]+)?: *{NUMBER}")
TABLE_UNIT = re.compile(
    r"\b(?:meV|eV|[kMG]i?B|ms|CPU s|[Mm]illiseconds?|[Ss]econds|[Mm]inutes|[Mm]egabytes?|[Gg]igabytes?|[GT]FLOP|molecules/s)\b|%"
)
LINK = re.compile(r"\[([^\[\]]+)\]\[([\w-]+)\]")
DEFINITION = re.compile(r'^\[([\w-]+)\]: (\S+)(?: "(.*)")?$', re.MULTILINE)
ALIASES = {"minutes": "min", "minute": "min", "seconds": "s", "second": "s", "times": "x"}


def pages() -> list[Path]:
    """All that makes claims; CHANGELOG.md tells of the past, and what is drawn from rows has tests of its own (test_evidence.py,
    test_paper_tables.py in tests/scripts)."""
    docs = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in ("evidence.md", "paper_tables.md")]
    return [ROOT / "README.md", *docs, *sorted((ROOT / "examples").glob("*/*.md"))]


def prose(text: str) -> str:
    """A page's text without code, generated parts and definitions, line for line."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    for pattern in (
        BLOCK,
        re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE),
        re.compile(r"^(?: {4,}(?![*\-]).*)$", re.MULTILINE),
        DEFINITION,
    ):
        text = pattern.sub(blank, text)
    return re.sub(r"`[^`\n]+`", "`code`", text)


def uncited(text: str) -> list[str]:
    """ "line: number with its unit" of each that is no link's text."""
    plain = LINK.sub(lambda match: f"[{match[2]}]", prose(text))
    found = []
    for number, line in enumerate(plain.splitlines(), 1):
        found += [f"{number}: {match[0]}" for pattern in (CLAIM, NAMED) for match in pattern.finditer(line)]
    return found + [f"{number}: {cell} in a table of {unit}" for number, unit, cell in bare_cells(plain)]


def bare_cells(text: str) -> list[tuple[int, str, str]]:
    """(line, unit, cell) of the cells that are but a number, of hand-written tables whose head, or the line before it, names a unit."""
    lines, found = text.splitlines(), []
    for start, line in enumerate(lines):
        if not (line.startswith("|") and start + 1 < len(lines) and re.match(r"\| *:?-", lines[start + 1])):
            continue
        before = next((lines[i] for i in range(start - 1, -1, -1) if lines[i].strip()), "")
        unit = TABLE_UNIT.search(line) or TABLE_UNIT.search(before)
        for at in range(start + 2, len(lines)):
            if not lines[at].startswith("|"):
                break
            cells = [cell.strip() for cell in lines[at].strip("|").split("|")] if unit else []
            found += [(at + 1, unit[0], cell) for cell in cells if unit and re.fullmatch(rf"[-+~]?{NUMBER}(?: / {NUMBER})*", cell)]
    return found


@dataclass(frozen=True)
class Citation:
    """A link's text and where it leads."""

    page: Path
    shown: str
    target: str
    title: str

    def wrong(self) -> str | None:
        """What is wrong with it; None where the source says what is shown."""
        if self.target.startswith(("https://", "http://")):
            return None
        path = (self.page.parent / self.target).resolve()
        if not path.is_file():
            return f"there is no {self.target}"
        if path.suffix == ".csv" and (path == RESULTS or " | " in self.title):
            return self.wrong_row(path)
        if not self.title or self.title not in path.read_text():
            return f"{self.target} does not hold {self.title!r}"
        if path.suffix == ".csv" and self.shown.split()[0].replace(",", "") not in self.title.split(","):
            return f"{self.shown!r} is no cell of {self.title!r}"
        return None

    def wrong_row(self, path: Path) -> str | None:
        with open(path, newline="") as stream:
            rows = [r for r in csv.DictReader(stream) if f"{r['benchmark']} | {r['case']} | {r['metric']}" == self.title]
        if not rows:
            return f"no row {self.title!r}"
        row = rows[-1]
        if not all(row[name] for name in ("device", "versions", "commit", "date")) or row["commit"].endswith("+"):
            return f"the row {self.title!r} is of no clean commit, or lacks its circumstances"
        match = re.fullmatch(rf"(?P<value>{NUMBER})(?: (?P<unit>.+))?", self.shown)
        if match is None:
            return f"{self.shown!r} is not a number with a unit"
        unit = match["unit"] or ""
        if ALIASES.get(unit, unit) != row["unit"]:
            return f"shown in {unit!r}, measured in {row['unit']!r}"
        digits = len(match["value"].partition(".")[2])
        if abs(float(match["value"].replace(",", "")) - float(row["p50"])) > 0.5001 * 10**-digits:
            return f"{self.shown} is shown, the row says {row['p50']}"
        return None


def citations(page: Path, text: str) -> tuple[list[Citation], list[str]]:
    """All links by name of a page, and the names that are used or defined alone."""
    defined = {name: (target, title or "") for name, target, title in DEFINITION.findall(text)}
    used = LINK.findall(prose(text))
    alone = sorted({name for _, name in used} ^ set(defined))
    return [Citation(page, shown, *defined[name]) for shown, name in used if name in defined], alone
