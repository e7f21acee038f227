"""Records of an SD file as text, streamed."""

from collections.abc import Iterator
from pathlib import Path

from moleblend_fs.errors import UserError
from moleblend_fs.sources.packed import read_blocks

END = b"\n$$$$"
MAX_RECORD = 64 << 20
"""Bytes without an end mark after which a file is no SD file."""


def sdf_records(path: Path, start: int = 0) -> Iterator[str]:
    """Records from the given one on, each from its title line to before its "$$$$".

    Earlier records are only counted, not decoded. A last record without an end mark is a record, unless it is blank.
    """
    # The line end before the first record's title makes it like all others, which begin with the line end after "$$$$".
    rest, skip = b"\n", start
    for block in read_blocks(path):
        *whole, rest = (rest + block.replace(b"\r", b"")).split(END)
        for record in whole[skip:]:
            yield record.decode("utf-8", errors="replace")[1:]
        skip = max(0, skip - len(whole))
        if len(rest) > MAX_RECORD:
            raise UserError(f"{path}: not an SD file (no line $$$$ in {MAX_RECORD >> 20} MB)")
    if skip == 0 and rest.strip():
        yield rest.decode("utf-8", errors="replace")[1:]


def sdf_properties(record: str) -> dict[str, str]:
    """Data items of a record: name -> its first line."""
    result = {}
    lines = record.split("\n")
    for i, line in enumerate(lines):
        if line.startswith(">") and (start := line.find("<")) >= 0 and (end := line.find(">", start)) > 0:
            result[line[start + 1 : end]] = lines[i + 1].strip() if i + 1 < len(lines) else ""
    return result
