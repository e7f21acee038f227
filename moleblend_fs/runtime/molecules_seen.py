"""A record of which molecules each update saw, to check that none is skipped or repeated; off unless MOLEBLEND_LEDGER names a folder."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VARIABLE = "MOLEBLEND_LEDGER"


class Recorder:
    """This rank's record: a line of JSON for each update of a run."""

    def __init__(self, folder: str, rank: int):
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.file = Path(folder, f"{time.time_ns()}-{rank}.jsonl").open("a")  # noqa: SIM115

    @classmethod
    def from_environment(cls, rank: int) -> "Recorder | None":
        """A record in the folder that the environment names, or None."""
        folder = os.environ.get(VARIABLE)
        return cls(folder, rank) if folder else None

    def write(self, update: int, epoch: int, samples: list[dict[str, Any]]) -> None:
        """Record an update's molecules on this rank."""
        molecules = [int(i) for sample in samples if sample for i in sample["id"]]
        self.file.write(json.dumps({"update": update, "epoch": epoch, "molecules": molecules}) + "\n")
        self.file.flush()


def read(folder: str | os.PathLike) -> dict[int, tuple[int, list[int]]]:
    """Epoch and molecules of each update of one run (one start of all its ranks); of an update done twice the later time."""
    by_rank: dict[tuple[int, str], dict[str, Any]] = {}
    for path in sorted(Path(folder).glob("*.jsonl"), key=lambda path: int(path.stem.split("-")[0])):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # cut short by a kill
            by_rank[record["update"], path.stem.split("-")[1]] = record
    result: dict[int, tuple[int, list[int]]] = {}
    for (update, _), record in sorted(by_rank.items()):
        result[update] = record["epoch"], [*result.get(update, (0, []))[1], *record["molecules"]]
    return result


def seen_by_epoch(folders: Iterable[str | os.PathLike]) -> dict[int, Counter[int]]:
    """How often each molecule was seen in each epoch by the updates that count: a later run's update replaces an earlier run's."""
    updates: dict[int, tuple[int, list[int]]] = {}
    for folder in folders:
        run = read(folder)
        if run:
            updates = {update: value for update, value in updates.items() if update < min(run)} | run
    epochs: dict[int, Counter[int]] = {}
    for epoch, molecules in updates.values():
        epochs.setdefault(epoch, Counter()).update(molecules)
    return epochs
