"""What `moleblend compare` is given: folders of runs and tables of scores or predictions, each perhaps with a method's name before it."""

import os
from collections.abc import Sequence
from pathlib import Path

from moleblend_fs.comparison.run_folders import lines_of_run
from moleblend_fs.comparison.score_files import lines_of_file
from moleblend_fs.comparison.score_lines import ScoreLine
from moleblend_fs.errors import UserError


def read(words: Sequence[str]) -> list[ScoreLine]:
    """Score lines of all of PATH or METHOD=PATH, in this order.

    A folder without a method's name goes by its own name.

    Raises:
        UserError: a path is not there, or holds nothing that can be compared.
    """
    given = [_parts(word) for word in words]
    found: list[ScoreLine] = []
    for name, path in given:
        if path.is_dir():
            found += lines_of_run(path, name or os.path.basename(os.path.abspath(path)))
        else:
            found += lines_of_file(path, name)
    return found


def _parts(word: str) -> tuple[str, Path]:
    """(method, path); a path that is there goes before a name with a sign in it."""
    name, equals, path = word.partition("=")
    if equals and name and path and not os.path.lexists(word):
        return name, Path(path)
    if not word:
        raise UserError("an empty name of a run; give folders of runs, or files")
    return "", Path(word)
