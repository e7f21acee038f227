"""A table of the paper as runs: which models are pretrained, and which are finetuned on what. Nothing is run here."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from grid_runs import read_toml

from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.registry import objectives

HERE = Path(__file__).resolve().parent
SCRATCH = "scratch"
QM9 = "qm9:"
"""What a data set's name begins with that is a target of QM9's."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table.

    Attributes:
        published: its name in the paper.
        objective: of pretraining, "" for none. options: of it.
        inputs: of finetuning, "" for those of the table.
    """

    published: str
    objective: str
    options: tuple[str, ...] = ()
    inputs: str = ""

    @property
    def available(self) -> bool:
        """Whether there is such an objective."""
        return not self.objective or self.objective in objectives()

    @property
    def pretraining(self) -> str:
        """Name of the pretrained model, which tables share."""
        if not self.objective:
            return SCRATCH
        digest = hashlib.sha256("\0".join(self.options).encode()).hexdigest()[:8]
        return f"{self.objective}-{digest}" if self.options else self.objective


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A file of `grids`."""

    about: str
    inputs: str
    data: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A part of scales.toml, which explains its fields."""

    pretraining: tuple[str, ...]
    qm9: tuple[str, ...]
    arch: str
    updates: int
    batch: int
    lr: float
    seeds: tuple[int, ...]
    trials: tuple[tuple[str, ...], ...]
    molecules: int = 0
    data_sets: int = 0
    leave_out: tuple[str, ...] = ()
    epochs: int = 0
    qm9_updates: int = 0
    options: tuple[str, ...] = ()
    qm9_options: tuple[str, ...] = ()
    precision: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finetuning run."""

    row: Row
    data: str
    inputs: str
    trial: int
    seed: int

    def folder(self, out: Path) -> Path:
        """Of the run, where the examples put it."""
        variant = SCRATCH if self.row.pretraining == SCRATCH else "pretrained"
        if self.data.startswith(QM9):
            return self.group(out) / f"seed{self.seed}" / f"{self.data.removeprefix(QM9)}_{self.inputs}_{variant}"
        return self.group(out) / f"{self.data}_{self.inputs}" / f"seed{self.seed}_{variant}"

    def group(self, out: Path) -> Path:
        """OUT of the examples' scripts."""
        return out / "finetuned" / self.row.pretraining / f"trial{self.trial}"


@dataclass(frozen=True)
class Plan:
    """A table at a scale."""

    table: str
    scale_name: str

    def __post_init__(self) -> None:
        tables = sorted(path.stem for path in (HERE / "grids").glob("*.toml"))
        if self.table not in tables:
            raise UserError(f"there is no grid {self.table!r}; there are {', '.join(sorted(tables, key=lambda name: int(name[5:])))}")
        if self.scale_name not in (scales := read_toml(HERE / "scales.toml")):
            raise UserError(f"--scale must be one of {', '.join(scales)}, got {self.scale_name!r}")

    @cached_property
    def grid(self) -> Grid:
        path = HERE / "grids" / f"{self.table}.toml"
        return from_json(Grid, read_toml(path), path.name)

    @cached_property
    def scale(self) -> Scale:
        return from_json(Scale, read_toml(HERE / "scales.toml")[self.scale_name], self.scale_name)

    @property
    def data(self) -> list[str]:
        """Data sets that are run."""
        kept = [name for name in self.grid.data if name not in self.scale.leave_out]
        return kept[: self.scale.data_sets or None]

    @property
    def missing(self) -> list[Row]:
        """Lines whose objective is not there."""
        return [row for row in self.grid.rows if not row.available]

    @cached_property
    def pretrained(self) -> list[Row]:
        """One line for each model that is pretrained."""
        return list({row.pretraining: row for row in self.grid.rows if row.objective and row.available}.values())

    @cached_property
    def cells(self) -> list[Cell]:
        """All finetuning runs."""
        return [
            Cell(row=row, data=data, inputs=row.inputs or self.grid.inputs, trial=trial, seed=seed)
            for row in self.grid.rows
            if row.available
            for data in self.data
            for trial in range(len(self.scale.trials))
            for seed in self.scale.seeds
        ]
