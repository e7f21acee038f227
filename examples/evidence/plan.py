"""The evidence as a grid: which methods are run on which splits of which data. Nothing is run here."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from grid_runs import read_toml

from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError

HERE = Path(__file__).resolve().parent
METHODS = {
    "constant": "mean or majority",
    "ecfp_forest": "ECFP + random forest",
    "ecfp_linear": "ECFP + ridge or logistic regression",
    "descriptors_boosting": "RDKit descriptors + gradient boosting",
    "scratch": "ours, from scratch",
    "finetuned": "ours, finetuned",
    "probe": "ours, frozen + linear",
    "ensemble": "ours, ensemble",
}
"""Method -> what tables call it."""
NEEDS_WEIGHTS = ("finetuned", "probe", "ensemble")
OURS = ("scratch", "finetuned", "ensemble")
"""Trained by `moleblend finetune`."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A part of scales.toml, which explains its fields."""

    data: tuple[str, ...]
    versions: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    repeats: int
    folds: int
    trials: int
    ours: tuple[str, ...]
    ours_trials: int
    members: int
    molecules: int = 0
    only_on: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"no such methods: {', '.join(unknown)}; there are {', '.join(METHODS)}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a method on one split of one data set."""

    protocol: str
    data: str
    version: str
    split: str
    seed: int
    method: str

    @property
    def dataset(self) -> str:
        """What it is compared within."""
        return f"{self.data}, {self.version}, protocol {self.protocol}"

    def row(self, out: Path) -> Path:
        """File of its result."""
        return out / "rows" / self.protocol / f"{self.data}-{self.version}" / self.method / f"{self.split}-seed{self.seed}.json"

    def splits(self, out: Path) -> Path:
        """File of its split."""
        return out / "splits" / self.protocol / f"{self.data}-{self.version}" / f"{self.split}.json"

    def table(self, out: Path) -> Path:
        """File of its molecules."""
        return out / "data" / f"{self.data}-{self.version}.csv"


@dataclass(frozen=True)
class Plan:
    """All runs at a scale.

    Attributes:
        scale_name: of scales.toml. weights: checkpoint that ours starts from, or "".
    """

    scale_name: str
    weights: str = ""

    @cached_property
    def scale(self) -> Scale:
        scales = read_toml(HERE / "scales.toml")
        if self.scale_name not in scales:
            raise UserError(f"--scale must be one of {', '.join(scales)}, got {self.scale_name!r}")
        return from_json(Scale, scales[self.scale_name], self.scale_name)

    @property
    def missing(self) -> list[str]:
        """Methods whose weights are not there."""
        return [name for name in self.scale.methods if name in NEEDS_WEIGHTS and not self.weights]

    def splits(self, protocol: str) -> list[str]:
        """Names of a protocol's splits."""
        scale = self.scale
        if protocol == "A":
            return ["scaffold"]
        if scale.folds == 1:
            return [f"repeat{r}" for r in range(scale.repeats)]
        return [f"repeat{r}-fold{k}" for r in range(scale.repeats) for k in range(scale.folds)]

    @cached_property
    def cells(self) -> list[Cell]:
        """All runs, cheap methods first."""
        scale = self.scale
        return [
            Cell(protocol=protocol, data=data, version=version, split=split, seed=seed, method=method)
            for method in scale.methods
            if method not in self.missing
            for protocol, seeds in (("A", scale.seeds), ("B", (0,)))
            for data in scale.data
            if data in scale.only_on.get(method, scale.data)
            for version in scale.versions
            for split in self.splits(protocol)
            for seed in seeds
        ]
