"""The evidence as a grid: which methods are run on which splits of which data. Nothing is run here."""

import hashlib
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from grid_runs import read_toml
from methods import DATA_SETS, METHODS, check_names, title_of

from moleblend_fs.checkpoint.weights_by_name import DEFAULT, NAME, NONE, located, names
from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError

HERE = Path(__file__).resolve().parent
PROTOCOLS = ("A", "B")


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
    network_trials: int
    members: int
    chemprop: tuple[str, ...] = ()
    molecules: int = 0
    minutes: float = 60.0
    only_on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only_protocol: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names((*self.methods, *self.only_on, *self.only_protocol), self.data)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a method on one split of one data set. `weights` is the name of what it starts from, or ""."""

    protocol: str
    data: str
    version: str
    split: str
    seed: int
    method: str
    weights: str = ""

    @property
    def dataset(self) -> str:
        """What it is compared within."""
        return f"{DATA_SETS[self.data].title}, {self.version}, protocol {self.protocol}"

    @property
    def title(self) -> str:
        """What tables call the method."""
        return title_of(self.method, self.weights)

    @property
    def folder(self) -> str:
        """Its method's folder of results."""
        return f"{self.method}-{self.weights}" if self.weights else self.method

    def row(self, out: Path) -> Path:
        """File of its result."""
        return out / "rows" / self.protocol / f"{self.data}-{self.version}" / self.folder / f"{self.split}-seed{self.seed}.json"

    def splits(self, out: Path) -> Path:
        """File of its split."""
        return out / "splits" / self.protocol / f"{self.data}-{self.version}" / f"{self.split}.json"

    def table(self, out: Path) -> Path:
        """File of its molecules."""
        return out / "data" / f"{self.data}-{self.version}.csv"

    def structures(self, out: Path) -> Path:
        """File of the same molecules with their coordinates, where the set has them."""
        return self.table(out).with_suffix(".sdf")


@dataclass(frozen=True)
class Plan:
    """All runs at a scale.

    Attributes:
        scale_name: of scales.toml. weights: name -> checkpoint that ours starts from.
        protocols, methods, data: those alone; empty for all of the scale.
    """

    scale_name: str
    weights: dict[str, Path] = field(default_factory=dict)
    protocols: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    @cached_property
    def scale(self) -> Scale:
        scales = read_toml(HERE / "scales.toml")
        if self.scale_name not in scales:
            raise UserError(f"--scale must be one of {', '.join(scales)}, got {self.scale_name!r}")
        scale = from_json(Scale, scales[self.scale_name], self.scale_name)
        for option, given, known in (
            ("--protocol", self.protocols, PROTOCOLS),
            ("--methods", self.methods, scale.methods),
            ("--data", self.data, scale.data),
        ):
            if unknown := [name for name in given if name not in known]:
                raise UserError(f"{option} {','.join(unknown)}: scale {self.scale_name} has {', '.join(known)}")
        return scale

    @property
    def missing(self) -> list[str]:
        """Methods whose weights are not there."""
        return [name for name in self.scale.methods if METHODS[name].needs_weights and not self.weights]

    def splits(self, data: str, protocol: str) -> list[str]:
        """Names of a protocol's splits of a set. QM9's have the same validation and test molecules in all of them."""
        scale, fixed = self.scale, DATA_SETS[data].qm9
        if protocol == "A":
            return ["fixed" if fixed else "scaffold"]
        if scale.folds == 1 or fixed:
            return [f"{'draw' if fixed else 'repeat'}{r}" for r in range(scale.repeats)]
        return [f"repeat{r}-fold{k}" for r in range(scale.repeats) for k in range(scale.folds)]

    @cached_property
    def cells(self) -> list[Cell]:
        """All runs: protocol A first, cheap methods first."""
        scale = self.scale
        return [
            Cell(protocol=protocol, data=data, version=version, split=split, seed=seed, method=method, weights=weights)
            for protocol, seeds in (("A", scale.seeds), ("B", (0,)))
            if protocol in (self.protocols or PROTOCOLS)
            for method in scale.methods
            if method in (self.methods or scale.methods) and protocol in scale.only_protocol.get(method, PROTOCOLS)
            for weights in (self.weights if METHODS[method].needs_weights else ("",))
            for data in scale.data
            if data in (self.data or scale.data) and data in scale.only_on.get(method, scale.data)
            if DATA_SETS[data].qm9 or not METHODS[method].reads_structures
            for version in scale.versions
            if version == "cleaned" or not DATA_SETS[data].qm9
            for split in self.splits(data, protocol)
            for seed in seeds
        ]


def weights_of(text: str) -> dict[str, Path]:
    """Name -> checkpoint of WEIGHTS: words NAME or NAME=PATH as a shell reads them; by default those that finetuning starts from.

    Raises:
        UserError: a name or path that is not there, or a name twice.
    """
    words = shlex.split(text) or ([DEFAULT] if DEFAULT in names() else [])
    if words == [NONE]:
        return {}
    found: dict[str, Path] = {}
    for word in words:
        name, given, path = word.partition("=")
        if not NAME.fullmatch(name):
            raise UserError(f"WEIGHTS: {word}: give names of weights, or NAME=PATH with a name of letters, digits and -")
        if name in found:
            raise UserError(f"WEIGHTS: {name} twice")
        found[name] = (Path(path) if given else located(name)).resolve()
        if not found[name].exists():
            raise UserError(f"WEIGHTS: {word}: there is no such checkpoint")
    return found


def digest_of(weights: Path) -> str:
    """SHA-256 of a checkpoint file, or of all files of a folder."""
    files = sorted(path for path in weights.rglob("*") if path.is_file()) if weights.is_dir() else [weights]
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()
