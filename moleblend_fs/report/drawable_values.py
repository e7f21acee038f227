"""What can be shown of what files hold: the names of runs, texts and numbers that a page and a chart can take."""

import os
import re
from pathlib import Path
from typing import Any

VARIANTS = ("scratch", "pretrained")
"""Runs whose folder names differ only by one of these endings (after "_") are compared side by side."""

LARGEST = 1e100
"""Numbers beyond cannot be drawn."""
NOT_SHOWN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def split_name(name: str) -> tuple[str, str]:
    """("gap_2d", "scratch") of a run called gap_2d_scratch; the second is "" for names without such an ending."""
    stem, _, ending = name.rpartition("_")
    return (stem, ending) if stem and ending in VARIANTS else (name, "")


def run_name(path: Path, root: Path) -> str:
    """A file's folder relative to the root, or the file's own name at the root itself."""
    folder = path.parent.relative_to(root)
    return drawable_text(os.fsencode(path.stem if folder == Path() else folder.as_posix()).decode(errors="replace"))


def drawable_number(text: Any) -> float | None:
    """A finite number that can be drawn, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if abs(value) <= LARGEST else None


def drawable_text(text: str) -> str:
    """A text that can be written and drawn: JSON admits halves of characters, and characters that are none."""
    return NOT_SHOWN.sub("\ufffd", text.encode("utf-8", errors="replace").decode())
