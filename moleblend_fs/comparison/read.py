"""What `moleblend compare` is given: folders of runs and tables of scores or predictions, each perhaps with a method's name before it."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
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
    return _under_one_name(found)


def _under_one_name(lines: list[ScoreLine]) -> list[ScoreLine]:
    """Runs that tested the molecules of a table of predictions, with the same labels on each split, stand with its data set."""
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    for line in lines:
        if line.tested and not line.as_tables:
            tables[line.dataset][line.split] = line.tested
    runs: dict[tuple[str, str], list[ScoreLine]] = defaultdict(list)
    for line in lines:
        if line.as_tables:
            runs[line.dataset, line.method].append(line)
    known = {
        run: dataset
        for run, of_run in runs.items()
        for dataset, splits in tables.items()
        if all(splits.get(line.split) in line.as_tables for line in of_run)
    }
    found = []
    for line in lines:
        dataset = known.get((line.dataset, line.method)) if line.as_tables else None
        found.append(line if dataset is None else replace(line, dataset=dataset, tested=tables[dataset][line.split]))
    return found


def _parts(word: str) -> tuple[str, Path]:
    """(method, path); a path that is there goes before a name with a sign in it."""
    name, equals, path = word.partition("=")
    if equals and name and path and not os.path.lexists(word):
        return name, Path(path)
    if not word:
        raise UserError("an empty name of a run; give folders of runs, or files")
    return "", Path(word)
