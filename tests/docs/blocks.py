"""Command blocks of Markdown pages: the indented and fenced ones, cut into commands as a shell would."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pages() -> list[Path]:
    """Every page whose commands a reader would try."""
    return sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/*.md")])


@dataclass(frozen=True)
class Block:
    """A block of a page: its lines without indent, and the number of the first one."""

    page: str
    line: int
    lines: tuple[str, ...]

    def python(self) -> str:
        """The whole block where it is Python, which begins with an import; otherwise ""."""
        return "\n".join(self.lines) + "\n" if self.lines and self.lines[0].startswith(("from ", "import ")) else ""

    def commands(self) -> list[str]:
        """Commands, continued lines joined, comments left out; none where it is Python."""
        if self.python():
            return []
        text = re.sub(r"\\\n\s*", "", "\n".join(self.lines))
        found = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in text.splitlines())
        return [re.sub(r"\s+", " ", command) for command in found if command]


def blocks(page: Path) -> list[Block]:
    """All indented (four blanks or more, after an empty line) and fenced blocks."""
    found: list[Block] = []
    name = str(page.relative_to(ROOT))
    lines = page.read_text().splitlines()
    begun: int | None = None
    fence, after_empty = False, True
    kept: list[str] = []

    def end() -> None:
        nonlocal begun
        if begun is not None:
            while kept and not kept[-1].strip():
                kept.pop()
            found.append(Block(name, begun, tuple(kept)))
        begun = None
        kept.clear()

    for number, line in enumerate(lines, 1):
        if line.strip().startswith("```"):
            end()
            fence = not fence
            begun = number + 1 if fence else None
        elif fence:
            kept.append(line.strip())
        elif line.startswith("    ") and (begun is not None or after_empty):
            begun = begun or number
            kept.append(line[4:])
        elif line.strip() or begun is None:
            end()
        else:
            kept.append("")
        after_empty = not line.strip()
    end()
    return found
