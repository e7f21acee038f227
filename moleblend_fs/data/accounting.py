"""Where every row of a source went, and what a store's user should be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from moleblend_fs.data.splits import TEST, TRAIN, VALID, Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.wording import counted

EXCLUDED = "excluded"
"""How rows are counted whose molecules were left out as those of another set; failures.csv lists them."""
FAR = 0.1
"""Difference of a split's share from the one asked for that is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """Rows of a source: read = stored + failed + all that was left out.

    Attributes:
        read: rows, blank lines, records and so on that the source gave.
        stored: rows that became a molecule.
        failed: rows in failures.csv that did not; molecules with a note stand there too, but are stored.
        left_out: what became no row of its own, by why, e.g. {"blank": 3}.
    """

    read: int
    stored: int
    failed: int
    left_out: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """UserError unless the counts add up: nothing may disappear."""
        if self.read != self.stored + self.failed + sum(self.left_out.values()):
            raise UserError(
                f"the rows do not add up: {self.text()}; the input was changed meanwhile, or the program is at fault: delete OUT.partial "
                "and run the command again; if that does not help, please report it"
            )

    def text(self) -> str:
        """One line for people."""
        parts = {"stored": self.stored, "failed": self.failed} | {name: count for name, count in self.left_out.items() if count}
        return f"{counted(self.read, 'row')} read = " + " + ".join(f"{count:,} {name}" for name, count in parts.items())


def split_notes(splitter: Splitter, splits: Mapping[str, np.ndarray]) -> list[str]:
    """What to tell of splits: one that is empty although it was asked for, shares far from those asked for, none that is called train."""
    sizes = {name: len(indices) for name, indices in splits.items()}
    total = sum(sizes.values())
    if splitter.kind == "prescribed" and TRAIN not in sizes:
        return [f"no split is called train, but {', '.join(sizes)}: name the one to train on with --train-subset"]
    if splitter.kind not in ("random", "scaffold") or not total:
        return []
    asked = dict(zip((TRAIN, VALID, TEST), splitter.fractions, strict=True))
    empty = [name for name, share in asked.items() if share > 0 and not sizes[name]]
    far = [name for name, share in asked.items() if abs(sizes[name] / total - share) > FAR]
    if not empty and not far:
        return []
    got = " : ".join(f"{sizes[name]:,}" for name in asked)
    wanted = " : ".join(f"{share:g}" for share in asked.values())
    why = {"scaffold": "whole scaffolds stay together", "random": "equal molecules stay together"}[splitter.kind]
    told = f"EMPTY: {', '.join(empty)}; " if empty else ""
    small = "few molecules" if total < 20 else f"{why}, and some are large"
    return [f"{told}train : valid : test are {got} molecules, asked for were the shares {wanted} ({small})"]
