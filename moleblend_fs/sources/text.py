"""Text files as lines, whatever wrote them: UTF-8 or UTF-16 with or without a byte order mark, Windows-1252, any line ends."""

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from moleblend_fs.errors import UserError
from moleblend_fs.sources.compressed import open_bytes, packing, read_blocks

LONGEST_LINE = 16 << 20
"""Characters; what has longer lines is no text file."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, and the codec that heeds and drops each; UTF-32's little-endian one begins like UTF-16's."""

SHOWN = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32": "UTF-32"}


class TextFile:
    """A text file whose encoding is found by reading it once.

    Attributes:
        path: where it is.
        encoding, errors: as Python's decoders take them.
        notes: what was found out that its name and plain UTF-8 would not tell, for people.

    Raises:
        UserError: it cannot be read, or is no text.
    """

    def __init__(self, path: Path):
        self.path = path
        self.errors = "strict"
        self.notes: list[str] = []
        first = next(read_blocks(path), b"")
        self.encoding = unicode_encoding(path, first) or self._eight_bit()
        if self.encoding == "utf-8-sig":
            self._eight_bit(certain=True)
        if packed := packing(path):
            self.notes.append(f"packed by {packed}")
        if self.encoding in SHOWN and self.encoding != "utf-8-sig":
            self.notes.append(SHOWN[self.encoding])

    def _eight_bit(self, *, certain: bool = False) -> str:
        """UTF-8 where all bytes are, or most of those outside ASCII, or it is certain; else Windows-1252 (which has Latin-1's letters)."""
        try:
            for _ in _decoded(self.path, "utf-8", "strict"):
                pass
            return "utf-8"
        except UnicodeDecodeError:
            pass
        good = bad = 0
        for text in _decoded(self.path, "utf-8", "replace"):
            bad += text.count("\ufffd")
            good += sum(ord(letter) > 127 for letter in text) - text.count("\ufffd")
        if certain or good >= bad:
            self.errors = "replace"
            self.notes.append(f"UTF-8 with {bad} bytes that are not, shown as \ufffd")
            return "utf-8"
        try:
            for _ in _decoded(self.path, "cp1252", "strict"):
                pass
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path}: a text in neither UTF-8 nor Windows-1252 (Latin-1); "
                f"save it as UTF-8, e.g. `iconv -f ENCODING -t UTF-8 {self.path.name} > utf8.{self.path.name}`"
            ) from error
        self.notes.append("Windows-1252 (Latin-1), since it is not UTF-8; where that is wrong, save it as UTF-8")
        return "cp1252"

    def lines(self) -> Iterator[str]:
        """Lines with their ends, which are a line feed, a carriage return or both."""
        try:
            with open_bytes(self.path) as stream:
                text = io.TextIOWrapper(stream, self.encoding, self.errors, newline="")  # type: ignore[type-var]
                for line in iter(partial(text.readline, LONGEST_LINE), ""):
                    if len(line) == LONGEST_LINE:
                        raise UserError(f"{self.path}: not a text file (a line of {LONGEST_LINE >> 20} MB or more)")
                    yield line
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not whole as {self.encoding} ({error.reason}); it is damaged, fetch it again") from error

    def note(self) -> str:
        """What was detected, in one line; "" if there is nothing to say."""
        return f"{self.path}: read as {', '.join(self.notes)}" if self.notes else ""


def unicode_encoding(path: Path, start: bytes) -> str | None:
    """The encoding that a file's first bytes tell: a byte order mark, or the zeros of ASCII in UTF-16; UserError for binary files."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    sample = start[:4096]
    if b"\x00" not in sample:
        return None
    odd, even = sample[1::2], sample[0::2]
    for zeros, letters, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if len(sample) > 3 and zeros.count(0) > 0.7 * len(zeros) and letters.count(0) < 0.05 * len(letters):
            return encoding
    if len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", sample)) > max(2, len(sample) // 50):
        raise UserError(f"{path}: not a text file (it has bytes of value 0)")
    return None


def _decoded(path: Path, encoding: str, errors: str) -> Iterable[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for block in read_blocks(path):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)
