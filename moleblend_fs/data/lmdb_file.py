"""Reading LMDB files that may be damaged, or made to do harm.

LMDB's own library trusts every byte of a file: a wrong offset reads memory that is not the file's, or ends the process, and so does a
file that is cut while it is mapped. This reader looks at each page before it believes it, and reads with `pread`, so that it needs no
address space, no lock, and may be used after a fork. The format (LMDB 0.9, data version 1) has been the same since 2011:

    page     number u8 | - u2 | flags u2 | lower u2, upper u2 (or, of an overflow page, pages u4) | offsets of nodes u2 ... | nodes
    node     data size or child u2 u2 | flags u2 (child) | key size u2 | key | data (or the number of its overflow page u8)
    table    - u4 | flags u2 | depth u2 | branch, leaf, overflow pages u8 u8 u8 | entries u8 | root u8
    meta     magic u4 | version u4 | address u8 | map size u8 | table of free pages | main table | last page u8 | transaction u8
"""

import bisect
import contextlib
import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from moleblend_fs.errors import UserError
from moleblend_fs.files import told

MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW, META = 0x01, 0x02, 0x04, 0x08
BIG, SUBTABLE, DUPLICATES = 0x01, 0x02, 0x04
"""Flags of a leaf's node: its data stand in overflow pages; it is a named table; it has several values."""
SEVERAL, OTHER_ORDER = 0x04, 0x0A  # the table of free pages has integers as keys
"""Flags of a table: keys with several values; keys that are integers or compared from their ends."""
NO_PAGE = 2**64 - 1
PAGE_HEADER, NODE_HEADER = struct.Struct("<QHHHH"), struct.Struct("<HHHH")
TABLE, META_PAGE = struct.Struct("<IHHQQQQQ"), struct.Struct("<IIQQ48s48sQQ")
DEEPEST = 32
UNWRITTEN = 16
"""Pages at the end of a file that may lack: LMDB does not write those that were taken and given back at once."""
CACHED_BRANCHES = 1 << 14
"""Pages above the leaves that are kept: enough for ten million molecules."""


class Damaged(UserError):
    """A file that is no LMDB file, or not as LMDB writes them."""


class Table(NamedTuple):
    """One B-tree of a file."""

    flags: int
    depth: int
    entries: int
    root: int


class Branch(NamedTuple):
    """A page above the leaves: keys, and the pages that begin with them."""

    keys: list[bytes]
    children: list[int]


class Node(NamedTuple):
    """A node of a leaf: its data, or the number of the page where they are. Of a branch: `size` is the number of the child."""

    key: bytes
    data: bytes
    size: int
    flags: int


class LmdbFile:
    """An LMDB file, opened for reading.

    Args:
        path: the file.
        remedy: what to tell the user to do about a damaged file.

    Raises:
        UserError: no such file, cut short, or no LMDB file.
    """

    def __init__(self, path: str | os.PathLike, remedy: str = "fetch it again"):
        self.path, self._remedy = Path(path), remedy
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({told(error)})") from error
        self._close = weakref.finalize(self, os.close, self._file)
        self._seen: bytearray | None = None
        self._branches: dict[int, Branch] = {}
        with contextlib.suppress(AttributeError, OSError):
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        try:
            self._read_meta()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._close()

    def __enter__(self) -> "LmdbFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def damaged(self, what: str) -> Damaged:
        """The error for a damage."""
        return Damaged(f"{self.path}: damaged ({what}); {self._remedy}")

    # The file

    def _read(self, start: int, length: int) -> bytes:
        try:
            content = os.pread(self._file, length, start)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({told(error)})") from error
        if len(content) != length:
            raise self.damaged(f"it ends at byte {start + len(content):,}: the file is cut short")
        return content

    def _read_meta(self) -> None:
        size = os.fstat(self._file).st_size
        found = []
        for start in (0, *(1 << power for power in range(9, 17))):  # the second one stands at the page size, which the first one has
            if start + 16 + META_PAGE.size <= size:
                *_, flags, _, _ = PAGE_HEADER.unpack(self._read(start, PAGE_HEADER.size))
                magic, version, _, _, free, main, last, transaction = META_PAGE.unpack(self._read(start + 16, META_PAGE.size))
                page_size = TABLE.unpack(free)[0]
                valid = flags & META and magic == MAGIC and page_size in (start or page_size, page_size) and page_size.bit_count() == 1
                if valid and 512 <= page_size <= 1 << 16 and start in (0, page_size):
                    found.append((transaction, version, page_size, last, free, main))
        if not found:
            raise Damaged(f"{self.path}: not an LMDB file ({size:,} bytes); {self._remedy}")
        _, version, self.page_size, self.last_page, free, main = max(found)
        if version != VERSION:
            raise Damaged(f"{self.path}: LMDB of format {version}, not {VERSION}; write it anew with LMDB 0.9")
        self.free, self.main = self._table(free, "the table of free pages"), self._table(main, "the main table")
        needed = (self.last_page + 1) * self.page_size
        if size < needed - UNWRITTEN * self.page_size:
            raise Damaged(f"{self.path}: {size:,} bytes of {needed:,}; the file is cut short, {self._remedy}")

    def _table(self, content: bytes, what: str) -> Table:
        if len(content) != TABLE.size:
            raise self.damaged(f"{what} is no table")
        _, flags, depth, *_, entries, root = TABLE.unpack(content)
        if (root == NO_PAGE) != (entries == 0) or depth > DEEPEST or entries > (self.last_page + 1) * self.page_size:
            raise self.damaged(f"{what} says {entries:,} entries, depth {depth}, root {root}")
        return Table(flags, depth, entries, root)

    # Pages

    def _raw(self, number: int) -> tuple[bytes, tuple[int, ...], int, bool]:
        """A page, the offsets of its nodes, where they begin, and whether it is a leaf."""
        if not 2 <= number <= self.last_page:
            raise self.damaged(f"page {number} of {self.last_page + 1}")
        if self._seen is not None:
            self._mark(number, 1)
        content = self._read(number * self.page_size, self.page_size)
        own_number, _, flags, lower, upper = PAGE_HEADER.unpack_from(content)
        kind = flags & (BRANCH | LEAF | OVERFLOW | META)
        if own_number != number or kind not in (BRANCH, LEAF) or not 16 < lower <= upper <= self.page_size or lower % 2:
            raise self.damaged(f"the header of page {number}")
        return content, struct.unpack_from(f"<{(lower - 16) // 2}H", content, 16), upper, kind == LEAF

    def _node(self, content: bytes, number: int, offset: int, upper: int, leaf: bool) -> Node:
        if not upper <= offset <= self.page_size - NODE_HEADER.size:
            raise self.damaged(f"a node of page {number}")
        low, high, flags, key_size = NODE_HEADER.unpack_from(content, offset)
        data = offset + NODE_HEADER.size + key_size
        size = low | high << 16
        end = data + (8 if flags & BIG else size) if leaf else data
        if end > self.page_size or (leaf and flags & ~(BIG | SUBTABLE | DUPLICATES)):
            raise self.damaged(f"a node of page {number}")
        key = content[offset + NODE_HEADER.size : data]
        return Node(key, content[data:end], size, flags) if leaf else Node(key, b"", size | flags << 32, 0)

    def _branch(self, number: int) -> Branch | None:
        """A page that is no leaf; None if it is one."""
        if (known := self._branches.get(number)) is not None:
            return known
        content, offsets, upper, leaf = self._raw(number)
        if leaf:
            return None
        nodes = [self._node(content, number, offset, upper, False) for offset in offsets]
        branch = Branch([node.key for node in nodes], [node.size for node in nodes])
        if len(self._branches) < CACHED_BRANCHES:
            self._branches[number] = branch
        return branch

    def _value(self, node: Node) -> bytes:
        if not node.flags & BIG:
            return node.data
        size = node.size
        number = int.from_bytes(node.data, "little")
        pages = -(-(16 + size) // self.page_size)
        if not 2 <= number <= self.last_page + 1 - pages:
            raise self.damaged(f"{size:,} bytes from page {number} on")
        if self._seen is not None:
            self._mark(number, pages)
        content = self._read(number * self.page_size, 16 + size)
        own_number, _, kind, *_ = PAGE_HEADER.unpack_from(content)
        if own_number != number or not kind & OVERFLOW or int.from_bytes(content[12:16], "little") < pages:
            raise self.damaged(f"the header of page {number}")
        return content[16:]

    # Contents

    def table(self, name: bytes) -> Table:
        """A named table."""
        found = self._find(self.main, name)
        if found is None or not found.flags & SUBTABLE:
            raise self.damaged(f"it has no table {name.decode(errors='replace')!r}")
        return self._table(self._value(found), f"table {name.decode(errors='replace')!r}")

    def get(self, key: bytes, table: Table | None = None) -> bytes | None:
        """The value of a key, or None."""
        found = self._find(table or self.main, key)
        return None if found is None else self._value(found)

    def _find(self, table: Table, key: bytes) -> Node | None:
        if table.flags & (SEVERAL | OTHER_ORDER):
            raise Damaged(f"{self.path}: an LMDB table of a kind that is not read here (flags {table.flags}); write it with plain keys")
        if not table.entries:
            return None
        number = table.root
        for _ in range(table.depth - 1):
            branch = self._branch(number)
            if branch is None:
                raise self.damaged(f"page {number} is a leaf in the middle of a tree")
            number = branch.children[bisect.bisect_right(branch.keys, key, lo=1) - 1]  # the first key stands for all smaller ones
        content, offsets, upper, leaf = self._raw(number)
        if not leaf:
            raise self.damaged(f"page {number} is no leaf")
        # Keys that reach out of the page are cut at its end; the node that is found is looked at in full.
        place = bisect.bisect_left(
            offsets, key, key=lambda at: content[at + 8 : at + 8 + int.from_bytes(content[at + 6 : at + 8], "little")]
        )
        if place == len(offsets):
            return None
        node = self._node(content, number, offsets[place], upper, True)
        return node if node.key == key else None

    def keys(self, table: Table | None = None) -> Iterator[bytes]:
        """All keys in order; an error unless there are as many as the table says."""
        for node in self._nodes(table or self.main):
            yield node.key

    def items(self, table: Table | None = None) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values in order; an error unless there are as many as the table says."""
        for node in self._nodes(table or self.main):
            yield node.key, self._value(node)

    def _nodes(self, table: Table) -> Iterator[Node]:
        if table.flags & SEVERAL:
            raise Damaged(f"{self.path}: an LMDB table with several values for a key, which is not read here; write it anew without")
        count, last = 0, b""
        waiting = [(table.root, 1)] if table.entries else []
        while waiting:
            number, depth = waiting.pop()
            content, offsets, upper, leaf = self._raw(number)
            if leaf != (depth == table.depth):
                raise self.damaged(f"page {number} stands at depth {depth} of a tree of depth {table.depth}")
            nodes = [self._node(content, number, offset, upper, leaf) for offset in offsets]
            if not leaf:
                waiting.extend((node.size, depth + 1) for node in reversed(nodes))
                continue
            for node in nodes:
                if count and last >= node.key and not table.flags & OTHER_ORDER:
                    raise self.damaged(f"keys out of order in page {number}")
                count, last = count + 1, node.key
                if count > table.entries:
                    raise self.damaged(f"more than {table.entries:,} entries, which it says it has")
                yield node
        if count != table.entries:
            raise self.damaged(f"{count:,} entries, but it says {table.entries:,}")

    def check(self) -> None:
        """UserError unless the whole file is as LMDB leaves it, so that LMDB may go on writing to it: it trusts every page number."""
        named = [self._table(self._value(node), "a table") for node in self._nodes(self.main) if node.flags & SUBTABLE]
        self._seen = bytearray(self.last_page + 1)
        for table in (self.main, *named):
            for _ in self.items(table):
                pass
        free = [struct.unpack(f"<{len(value) // 8}Q", value[: len(value) // 8 * 8]) for _, value in self.items(self.free)]
        for count, *pages in (entry or (1,) for entry in free):
            if count > len(pages):
                raise self.damaged("the list of free pages")
            for page in pages[:count]:
                self._mark(page, 1)
        self._seen = None

    def _mark(self, number: int, pages: int) -> None:
        """Note that pages are used; an error if they are used already."""
        assert self._seen is not None
        if not 2 <= number <= self.last_page + 1 - pages or any(self._seen[number : number + pages]):
            raise self.damaged(f"page {number} is used twice")
        self._seen[number : number + pages] = b"\1" * pages
