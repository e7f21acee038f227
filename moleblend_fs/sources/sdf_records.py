"""Records of an SD file as text, streamed, and their data items."""

import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from moleblend_fs.data.splits import SplitNames
from moleblend_fs.errors import UserError
from moleblend_fs.sources.compressed import packing, read_blocks
from moleblend_fs.sources.labels import ColumnSurvey
from moleblend_fs.sources.text import SHOWN, unicode_encoding
from moleblend_fs.wording import counted

END = b"\n$$$$"
MAX_RECORD = 64 << 20
"""Bytes without an end mark after which a file is no SD file."""
SURVEY_RECORDS = 1024
"""Records that are surveyed at a time, and whose items are looked at for names."""


def sdf_records(path: Path, start: int = 0) -> Iterator[str]:
    """Records from the given one on, each from its title line to before its "$$$$".

    Earlier records are only counted, not decoded. A last record without an end mark is a record, unless it is blank.
    """
    # The line end before the first record's title makes it like all others, which begin with what follows "$$$$" on its line.
    rest, skip = b"\n", start
    for block in _unix_blocks(path):
        *whole, rest = (rest + block).split(END)
        for record in whole[skip:]:
            yield _decoded(record)
        skip = max(0, skip - len(whole))
        if len(rest) > MAX_RECORD:
            raise UserError(f"{path}: not an SD file (no line $$$$ in {MAX_RECORD >> 20} MB)")
    if skip == 0 and rest.partition(b"\n")[2].strip():
        yield _decoded(rest)


def _unix_blocks(path: Path) -> Iterator[bytes]:
    """The file's content with line feeds alone as line ends, UTF-16 and UTF-32 as UTF-8, without a byte order mark."""
    decoder, old_mac = None, None
    for number, block in enumerate(read_blocks(path)):
        if number == 0 and (encoding := unicode_encoding(path, block)) is not None:
            decoder = codecs.getincrementaldecoder(encoding)("replace")
        if decoder is not None:
            block = decoder.decode(block).encode(errors="replace")
        if old_mac is None:
            old_mac = b"\r" in block and b"\n" not in block
        yield block.replace(b"\r", b"\n" if old_mac else b"")


def _decoded(record: bytes) -> str:
    """A record's text without the rest of the line before it: UTF-8, or Windows-1252 where it is not."""
    try:
        text = record.decode()
    except UnicodeDecodeError:
        text = record.decode("cp1252", errors="replace")
    return text.partition("\n")[2]


def detected(path: Path) -> str:
    """What of packing and encoding a file's name does not tell, in one line; "" for nothing."""
    encoding = unicode_encoding(path, next(read_blocks(path), b""))
    packed = packing(path)
    found = [*([f"packed by {packed}"] if packed else []), *([SHOWN[encoding]] if encoding and encoding != "utf-8-sig" else [])]
    return f"{path}: read as {', '.join(found)}" if found else ""


def sdf_items(record: str) -> dict[str, list[str]]:
    """Data items of a record: name -> its values, one for each time it stands there.

    An item begins with a line "> ... <NAME> ..." after "M  END" or after the blank line that ends the item before; such a line within an
    item's text is text (CTfile formats, BIOVIA, chapter "SDFiles").
    """
    items: dict[str, list[str]] = defaultdict(list)
    lines = record.split("\n")
    place = next((number for number, line in enumerate(lines) if line.startswith("M  END")), -1) + 1
    while place < len(lines):
        header, place = lines[place], place + 1
        if not header.startswith(">"):
            continue
        begin = place
        while place < len(lines) and lines[place].strip():
            place += 1
        if name := re.search(r"<(.*)>", header[1:]):
            items[name[1]].append("\n".join(lines[begin:place]).strip())
    return dict(items)


def item_texts(items: dict[str, list[str]], names: Sequence[str]) -> list[str]:
    """The text of each item, "" where it is not there; ValueError where it stands there twice with different texts."""
    for name in names:
        if len(set(items.get(name, []))) > 1:
            raise ValueError(f"data item {name!r} stands there {len(items[name])} times, as {', '.join(map(repr, items[name]))[:80]}")
    return [items.get(name, [""])[0] for name in names]


def item_names(path: Path) -> list[str]:
    """Names of the data items in the first records; UserError where the first one is none."""
    names: dict[str, None] = {}
    for number, record in enumerate(sdf_records(path)):
        if number == 0 and "M  END" not in record:
            raise UserError(f"{path}: not an SD file (no 'M  END' in its first record)")
        if number == SURVEY_RECORDS:
            break
        names |= dict.fromkeys(sdf_items(record))
    else:
        if not names and next(sdf_records(path), None) is None:
            raise UserError(f"{path}: the file is empty")
    return list(names)


def survey_items(path: Path, survey: ColumnSurvey, labels: Sequence[str], split: str | None) -> tuple[SplitNames, list[str]]:
    """Look at all records' labels and splits: (how splits are named, notes).

    Raises:
        UserError: no record has an item that is asked for, or a split's name cannot be one.
    """
    wanted = [*labels, *([split] if split else [])]
    having, alike, splits = Counter[str](), Counter[tuple[str, str]](), Counter[str]()
    rows: list[list[str]] = []
    for record in sdf_records(path) if wanted else ():
        items = sdf_items(record)
        having.update(name for name in wanted if name in items)
        alike.update((name, other) for name in wanted if name not in items for other in items if other.lower() == name.lower())
        rows.append([items.get(name, [""])[0] for name in labels])
        if split and split in items:
            splits.update(items[split])
        if len(rows) == SURVEY_RECORDS:
            survey.add(rows)
            rows.clear()
    survey.add(rows)
    if missing := [name for name in wanted if not having[name]]:
        first = sdf_items(next(sdf_records(path), ""))
        raise UserError(f"{path}: no data item {', '.join(map(repr, missing))}; the first record has: {', '.join(first) or 'none'}")
    notes = [
        f"{path}: {counted(count, 'record has', 'records have')} {other!r} in place of {name!r}; that is not read"
        for (name, other), count in alike.items()
    ]
    return SplitNames(f"{path}: data item {split!r}", splits), notes
