"""Tables as text: which character delimits the cells, and rows that survive stray quotes."""

import csv
import re
import sys
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rdkit import Chem

from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.errors import UserError
from moleblend_fs.sources.text import LONGEST_LINE, TextFile
from moleblend_fs.wording import counted

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
"""In the order in which they are tried, and their names."""
HEADER_LINES = 64
"""Most lines that a header with quoted line ends may take."""

UNCLOSED = "a quote is opened in this row and not closed; remove it, or write it twice within a quoted cell"
MISPLACED = "a quote within a quoted cell; write it twice there"

csv.field_size_limit(sys.maxsize)


class Row(NamedTuple):
    """The cells of a row; none for a blank line. `problem` where the row cannot be cut into cells, which then are the line alone."""

    cells: list[str]
    problem: str = ""


class Table:
    """A text file with a header, its cells separated by commas, tabs, semicolons or bars.

    Args:
        path: the file, perhaps packed.
        wanted: for each column that must be there, the names that it may have; they decide which character separates the cells.
        smiles: the same of the column of SMILES, which tells a row from text within a quoted cell; by default the first of `wanted`.

    Attributes:
        header: column names.
        note: what was detected, in one line; "" for plain comma-separated UTF-8.

    Raises:
        UserError: the file cannot be read, is empty or no text.
    """

    def __init__(self, path: Path, wanted: Sequence[Sequence[str]]):
        self.path = path
        self._text = TextFile(path)
        self._delimiter, self._header_lines, self.header = self._read_header(wanted)
        self._smiles = next((i for i, name in enumerate(self.header) if wanted and name in wanted[0]), 0)
        if self._delimiter != ",":
            self._text.notes.append(f"separated by {DELIMITERS.get(self._delimiter, repr(self._delimiter))}")
        self.note = self._text.note()

    def _read_header(self, wanted: Sequence[Sequence[str]]) -> tuple[str, int, list[str]]:
        """(delimiter, lines up to the header's end, column names)."""
        lines = self._text.lines()
        skipped, line = 0, ""
        for line in lines:
            if line.strip(" \t\r\n\ufeff"):
                break
            skipped += 1
        else:
            raise UserError(f"{self.path}: the file is empty")
        candidates = list(DELIMITERS)
        line = line.lstrip("\ufeff")
        if found := re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n")):  # how Excel says it
            candidates, skipped, line = [found[1]], skipped + 1, next(lines, "")
        more: list[str] = []
        results = []
        for delimiter in candidates:
            text, used = line, 1
            while (cells := _cut(text, delimiter)) == UNCLOSED and used < HEADER_LINES:
                if used > len(more):
                    more.append(next(lines, ""))
                text, used = text + more[used - 1], used + 1
            if not isinstance(cells, str):
                results.append((delimiter, skipped + used, [name.strip() for name in cells]))
        if not results:
            raise UserError(f"{self.path}: line {skipped + 1}, the header, has {UNCLOSED if cells == UNCLOSED else cells}")
        for result in results:
            if all(any(name in result[2] for name in names) for names in wanted):
                return result
        return max(results, key=lambda result: len(result[2]))

    @property
    def may_have_decimal_commas(self) -> bool:
        """Whether a comma in a cell may be a decimal point: where it separates no cells."""
        return self._delimiter != ","

    def rows(self) -> Iterator[Row]:
        """What follows the header, row by row, blank lines as rows without cells.

        A quoted cell may go over several lines. A quote that is never closed, or only after lines that are rows by themselves, spoils its
        own row alone.
        """
        lines = self._text.lines()
        for _ in range(self._header_lines):
            next(lines)
        waiting: deque[str] = deque()
        while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
            if '"' not in line:
                yield Row(line.rstrip("\r\n").split(self._delimiter) if not line.isspace() else [])
                continue
            cells = _cut(line, self._delimiter)
            if cells == UNCLOSED:
                cells = self._closed(line, waiting, lines)
            yield Row(cells) if not isinstance(cells, str) else Row([line.rstrip("\r\n")], problem=cells)

    def full_width(self, cells: list[str]) -> list[str]:
        """Cells that a row lacks are empty, and those that it has too many stand in the last one, as the file has them."""
        width = len(self.header)
        if len(cells) > width:
            cells = [*cells[: width - 1], self._delimiter.join(cells[width - 1 :])]
        return [*cells, *[""] * (width - len(cells))]

    def _closed(self, first: str, waiting: deque[str], lines: Iterator[str]) -> list[str] | str:
        """All cells of a row whose quote is closed on a later line; `UNCLOSED`, and all later lines waiting, where it is stray."""
        taken: list[str] = []
        quotes, length = first.count('"'), len(first)
        while length < LONGEST_LINE and (line := waiting.popleft() if waiting else next(lines, None)) is not None:
            taken.append(line)
            quotes, length = quotes + line.count('"'), length + len(line)
            closes = quotes % 2 == 0
            # The line that ends a cell at the beginning of a row looks like a row, too.
            if self._is_row(line) and (not closes or self._is_row(first)):
                break
            if closes and (cells := _cut("".join([first, *taken]), self._delimiter)) != UNCLOSED:
                if not isinstance(cells, str) and len(cells) == len(self.header):
                    return cells
                break
        waiting.extendleft(reversed(taken))
        return UNCLOSED

    def _is_row(self, line: str) -> bool:
        """Whether a line alone has all cells, and a SMILES where one should be."""
        silence_rdkit()
        for cells in (line.split(self._delimiter), next(csv.reader([line], delimiter=self._delimiter), [])):
            smiles = cells[self._smiles].strip(' "\r\n') if len(cells) == len(self.header) else ""
            # No words, as far as that can be told: "b" and "co" are readable, but no molecules.
            plain = smiles.isascii() and not re.search(r"\s", smiles) and not re.fullmatch("[a-z]{1,2}", smiles)
            if smiles and plain and Chem.MolFromSmiles(smiles, sanitize=False) is not None:
                return True
        return False


COMMA_NUMBER = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")


def decimal_commas(table: Table, columns: Sequence[int]) -> list[bool]:
    """For each column whether its numbers have decimal commas: some have a comma that separates no thousands, and none a point."""
    commas, points = [False] * len(columns), [False] * len(columns)
    if table.may_have_decimal_commas:
        for cells in (row.cells for row in table.rows() if len(row.cells) == len(table.header)):
            for i, column in enumerate(columns):
                cell = cells[column].strip()
                commas[i] = commas[i] or (COMMA_NUMBER.fullmatch(cell) is not None and not THOUSANDS.fullmatch(cell))
                points[i] = points[i] or "." in cell.strip(".")
    return [comma and not point for comma, point in zip(commas, points, strict=True)]


def full_rows(table: Table) -> Iterator[list[str] | None]:
    """Rows of a table that somebody published, None for blank lines; UserError at the first one that is not as long as the header."""
    for number, (cells, problem) in enumerate(table.rows()):
        if problem or (cells and len(cells) != len(table.header)):
            what = problem or f"{counted(len(cells), 'column')}, the header has {len(table.header)}"
            raise UserError(f"{table.path}: row {number}: {what}; the file is damaged, fetch it again")
        yield cells or None


def _cut(text: str, delimiter: str) -> list[str] | str:
    """Cells of a row; or what is wrong with its quotes."""
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return UNCLOSED if "unexpected end" in str(error) else MISPLACED


def column_indices(path: Path, header: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Positions of columns; UserError that names those that are missing and those there are, or that stand there twice."""
    missing = [name for name in wanted if name.strip() not in header]
    if missing:
        shown = ", ".join(header[:20]) + (f", ... ({len(header)} in all)" if len(header) > 20 else "")
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; the file has: {shown}{alike(missing, header)}")
    for name in wanted:
        if (count := header.count(name.strip())) > 1:
            places = [str(place) for place, found in enumerate(header, 1) if found == name.strip()]
            raise UserError(
                f"{path}: {count} columns are named {name!r} (columns {', '.join(places)}); give all but the wanted one another name"
            )
    return [header.index(name.strip()) for name in wanted]


def alike(missing: Sequence[str], header: Sequence[str]) -> str:
    """What to say of columns called nearly as those that are missing: in another case, or in characters that only look the same."""
    plain = {_plain(name) for name in missing}
    other = [name for name in header if _plain(name) in plain]
    if any(name.lower() in {each.lower() for each in missing} for name in other):
        return f"; names are case-sensitive: {', '.join(map(repr, other))}?"
    return f"; {', '.join(map(ascii, other))} is written with other characters that look alike: copy it from the file" if other else ""


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
