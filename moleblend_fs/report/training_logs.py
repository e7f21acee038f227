"""The curves of a training run, read from its log: JSON lines, and the plain lines of fairseq's other formats."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.report.drawable_values import drawable_number, drawable_text, run_name
from moleblend_fs.report.settings import START, Settings, read_facts, read_settings
from moleblend_fs.wording import counted

DAMAGED: dict[str, Any] = {"num_updates": None}
"""Stands for a line of a log that should be a JSON object."""
MOST_UPDATES = 2**53
WITHIN = re.compile(r"\bepoch \d+: +\d+ / \d+ (.*=.*)$")
AFTER = re.compile(r"\bepoch \d+ \| (?:valid on '(.*?)' subset \| )?(\w+ .*\|.*)$")
VALIDATION = "valid"
"""The split that curves are of where a log does not tell --valid-subset."""
OF_CLASSES = {"roc_auc", "pr_auc"}
"""Validation scores that only runs on classes have."""
Curve = tuple[np.ndarray, np.ndarray]
"""Updates (n,) and values (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingLog:
    """The curves of one training run.

    Attributes:
        name: the log's folder, relative to the folder of runs.
        train: quantity -> values at every log interval.
        valid: quantity -> values at every validation.
        settings: what the run was started with, as far as the log tells.
    """

    name: str
    train: dict[str, Curve]
    valid: dict[str, Curve]
    settings: Settings = field(default_factory=dict)

    def agrees_with(self, other: "TrainingLog") -> bool:
        """Whether both have the same value wherever both have one."""
        for mine, theirs in ((self.train, other.train), (self.valid, other.valid)):
            for name in mine.keys() & theirs.keys():
                points = dict(zip(*mine[name], strict=True))
                if any(points.get(update, value) != value for update, value in zip(*theirs[name], strict=True)):
                    return False
        return True

    def joined_with(self, other: "TrainingLog") -> "TrainingLog":
        """The points of both."""
        both = []
        for mine, theirs in ((self.train, other.train), (self.valid, other.valid)):
            names = dict.fromkeys((*mine, *theirs))
            both.append({n: {u: v for log in (mine, theirs) if n in log for u, v in zip(*log[n], strict=True)} for n in names})
        return TrainingLog(name=self.name, train=curves(both[0]), valid=curves(both[1]), settings={**self.settings, **other.settings})


def read_log(path: Path, root: Path, notes: list[str] | None = None) -> TrainingLog | None:
    """The curves in one log file, or None if it holds none.

    fairseq's log file has plain lines between the JSON ones, and adds one more handler at each epoch, so that lines come
    once, twice, three times ...; a resumed run appends. Of several values at one update the last is kept. Lines that are damaged
    are left out, and counted in a note. A run that ended before its first log interval has the means of its epochs. Of several splits
    that --valid-subset names, validation is the first one, which chooses the epoch.
    """
    train: dict[str, dict[int, float]] = {}
    epochs: dict[str, dict[int, float]] = {}
    valid: dict[str, dict[int, float]] = {}
    settings: Settings = {}
    damaged, validation = 0, VALIDATION
    for entry in entries(path):
        if isinstance(entry, str):
            settings |= read_settings(entry)
            validation = settings.get("dataset.valid_subset", validation).partition(",")[0].strip()
            continue
        settings |= read_facts(entry)
        if f"{validation}_num_updates" in entry:
            updates, kind, prefix = entry[f"{validation}_num_updates"], valid, f"{validation}_"
        elif "num_updates" in entry:
            updates, kind, prefix = entry["num_updates"], train, ""
        elif "train_num_updates" in entry:
            updates, kind, prefix = entry["train_num_updates"], epochs, "train_"
        else:
            continue
        update = drawable_number(updates)
        if update is None or not 0 <= update <= MOST_UPDATES:
            damaged += 1
            continue
        for name, text in entry.items():
            value = drawable_number(text)
            if name.startswith(prefix) and value is not None:
                kind.setdefault(drawable_text(name.removeprefix(prefix)), {})[int(update)] = value
    if damaged and notes is not None:
        notes.append(f"{path}: {counted(damaged, 'line of it is', 'lines of it are')} damaged and left out")
    train = train or epochs
    if not train and not valid:
        return None
    if OF_CLASSES & valid.keys():
        settings.pop("task.regression_loss", None)  # which has a value there as well
    return TrainingLog(name=run_name(path, root), train=curves(train), valid=curves(valid), settings=settings)


def entries(path: Path) -> Iterator[dict[str, Any] | str]:
    """What the lines of a log hold: values at an update, as JSON or as fairseq's plain formats; the configuration, as its text.

    `DAMAGED` stands for lines that should be JSON objects.
    """
    with open(path, errors="replace") as stream:
        for line in stream:
            if START in line:
                yield line
            elif (plain := plain_values(line)) is not None:
                yield plain
            elif (entry := json_values(line)) is not None:
                yield entry


def json_values(line: str) -> dict[str, Any] | None:
    """The JSON object at a line's end."""
    line = line[line.find("{") :].strip() if "{" in line else ""
    if not line.endswith("}"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = DAMAGED if '_updates"' in line or '"num_updates"' in line else None
    return entry if isinstance(entry, dict) else None


def plain_values(line: str) -> dict[str, Any] | None:
    """Names and values of a line of --log-format simple or tqdm, named as in JSON; None of any other line.

    "epoch 001:   50 / 53 loss=1.2, num_updates=50" within an epoch; "epoch 001 | valid on 'valid' subset | loss 1.2 | num_updates 53".
    """
    if (within := WITHIN.search(line)) is not None:
        prefix, pairs = "", [part.partition("=") for part in within[1].strip().split(", ")]
    elif (after := AFTER.search(line)) is not None:
        if not after[1]:  # averages of an epoch, of which JSON lines are passed over as well
            return None
        prefix, pairs = f"{after[1]}_", [part.partition(" ") for part in after[2].strip().split(" | ")]
    else:
        return None
    values = {f"{prefix}{name.strip()}": value.strip() for name, _, value in pairs}
    return values if f"{prefix}num_updates" in values else None


def curves(values: dict[str, dict[int, float]]) -> dict[str, Curve]:
    """Points sorted by update."""
    return {name: (np.array(sorted(points)), np.array([points[u] for u in sorted(points)])) for name, points in values.items()}
