"""Exported models (ONNX files), told from other files, for commands that read something else."""

import os
from pathlib import Path

from moleblend_fs.errors import UserError

FIRST_BYTE = b"\x08"
"""Of an ONNX file: the number of its format's version comes first."""
VERSIONS = range(3, 64)


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a path is meant as an ONNX file: it is called so, or is a file that begins as one."""
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return not path.is_dir()
    try:
        with path.open("rb") as stream:
            begin = stream.read(2)
    except OSError:
        return False
    return begin[:1] == FIRST_BYTE and len(begin) == 2 and begin[1] in VERSIONS


def refuse_exported(path: str | os.PathLike, instead: str) -> None:
    """UserError for an exported model.

    Args:
        instead: what is needed.
    """
    if is_exported(path) and os.path.exists(path):
        raise UserError(f"{path}: an exported model, which `moleblend predict` and `moleblend embed` read; {instead}")
