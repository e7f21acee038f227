"""What `moleblend finetune` is asked for, and what it chooses by itself."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from moleblend_fs.checkpoint.weights_by_name import NONE, default_weights, located
from moleblend_fs.data.model_description import INPUTS, PREDICTED
from moleblend_fs.data.split_file import SplitFile
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import PRESETS, READOUTS
from moleblend_fs.shared_options import HEAD_STARTS, MOST_SEED, PRECISIONS, RIDGE, Precision, check_precision
from moleblend_fs.sources.labels import KINDS

SPLITS = ("scaffold", "random", "scaffold-balanced", "butina", "column", "file", "store")
ARCHITECTURES = tuple(PRESETS)
CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("", *KINDS),
    "split": ("", *SPLITS),
    "inputs": INPUTS,
    "hydrogens": ("", "explicit", "none"),
    "arch": ("", *ARCHITECTURES),
    "readout": ("", *READOUTS),
    "head_start": ("", *HEAD_STARTS),
    "regression_loss": ("mse", "mae"),
}
"""Settings that are one of some words."""
WHOLE = ("folds", "repeats", "ensemble", "conformers", "seed", "epochs", "batch_size", "max_atoms")
REAL = ("lr", "weight_decay", "output_scale", "level", "dropout", "attention_dropout")
"""Settings that are numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What shapes the result: a run folder goes on only with the same of these.

    Attributes:
        targets: as given, NAME[:KIND[:UNIT]] or patterns of names.
        kind: of all targets for which none is given; "" for guessing.
        smiles_column: "" for finding it.
        split: one of `SPLITS`, "" for scaffolds, or the store's own split where the data are a store.
        split_column, split_file: where split is "column" or "file".
        fractions: train, valid and test shares of a single split.
        folds: parts of a cross-validation; 1 for a single split. repeats: how often it is split anew.
        ensemble: members of each fold, which differ in their seed.
        seed: of splits and members.
        weights: to start from: a name of `checkpoint.weights_by_name`, a path, or "none" for random ones; "" for what `with_weights`
            chooses.
        inputs: of `data.model_description.INPUTS`.
        hydrogens: "explicit", "none"; "" for those of the weights, heavy atoms without.
        arch: size of the model, "" for that of the weights or of the table.
        readout: what the property head reads, see `model.readout`; "" for that of the weights, or the graph token.
        head_start: of `HEAD_STARTS`; "" for random.
        output_scale: of the property head, see `ModelConfig`; 0 for `recipes.OUTPUT_SCALE` where it begins at random on weights, else 1.
        epochs, batch_size: 0 for the table's. lr: 0 for the table's.
        weight_decay: decoupled, as Adam of fairseq has it.
        dropout, attention_dropout: of the model; None for its own (0 and 0.1).
        regression_loss: "mse" or "mae".
        conformers: of each molecule, where inputs need 3D and the data have none.
        max_atoms: larger molecules are left out; 0 for the most there is.
        level: of the intervals. precision: of the members' own predictions, of `options.PRECISIONS`; training has float32.
    """

    targets: tuple[str, ...] = ()
    kind: str = ""
    smiles_column: str = ""
    split: str = ""
    split_column: str = ""
    split_file: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    folds: int = 1
    repeats: int = 1
    ensemble: int = 2
    seed: int = 0
    weights: str = ""
    inputs: str = "2d"
    hydrogens: str = ""
    arch: str = ""
    readout: str = ""
    head_start: str = ""
    output_scale: float = 0.0
    epochs: int = 0
    batch_size: int = 0
    lr: float = 0.0
    weight_decay: float = 0.0
    dropout: float | None = None
    attention_dropout: float | None = None
    regression_loss: str = "mse"
    conformers: int = 1
    max_atoms: int = 0
    level: float = 0.9
    precision: Precision = PRECISIONS[0]

    def __post_init__(self) -> None:
        self._check_types()
        check_precision(self.precision)
        for name in ("folds", "repeats", "ensemble", "conformers"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("epochs", "batch_size", "lr", "max_atoms", "weight_decay", "output_scale"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{flag(name)} must be above 0, got {getattr(self, name)}")
        for name in ("dropout", "attention_dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.level < 1:
            raise UserError(f"--level must lie between 0 and 1, got {self.level}")
        if self.inputs == PREDICTED and not self.pretrained:
            raise UserError(
                f"--inputs {PREDICTED} needs --weights, pretrained with --geometry-target distance: that model predicts the distances"
            )
        if self.head_start == RIDGE and self.weights == NONE:
            raise UserError(f"--head-start {RIDGE} needs pretrained --weights: on random ones there is nothing to fit to")
        if (self.split == "column") != bool(self.split_column) or (self.split == "file") != bool(self.split_file):
            raise UserError("--split column goes with --split-column NAME, --split file with --split-file FILE")
        if self.split in ("column", "file", "store") and (self.folds > 1 or self.repeats > 1):
            raise UserError(f"--split {self.split} says itself what the folds are; leave --folds and --repeats out")
        if self.folds == 1 and self.repeats > 1 and self.split in ("", "scaffold"):
            raise UserError("--split scaffold gives one and the same split each time; --repeats needs scaffold-balanced, random or butina")
        if self.folds > 1 and self.split in ("", "scaffold"):
            object.__setattr__(self, "split", "scaffold-balanced")
        if min(self.fractions[:2]) <= 0 or self.fractions[2] < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(f"--split-fractions must be three shares that sum to 1, of train and valid above 0, got {self.fractions}")

    def _check_types(self) -> None:
        """Numbers and words as the options of the command have them; from Python they may be anything. NumPy's numbers become Python's."""
        convert: Callable[[Any], int | float]
        for names, kind, convert, what in ((WHOLE, Integral, int, "a whole number"), (REAL, Real, float, "a number")):
            for name in names:
                value: Any = getattr(self, name)
                if value is None and name in ("dropout", "attention_dropout"):
                    continue
                right = isinstance(value, kind) and not isinstance(value, bool)
                if not right:
                    raise UserError(f"{flag(name)} must be {what}, got {value!r}")
                object.__setattr__(self, name, convert(value))
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"{flag(name)} must be one of {', '.join(filter(None, choices))}, got {value!r}")
        if not 0 <= self.seed <= MOST_SEED - self.ensemble:
            raise UserError(f"--seed must be a whole number from 0 to {MOST_SEED - self.ensemble}, got {self.seed}")
        for name in ("weights", "split_file"):
            if isinstance(path := getattr(self, name), os.PathLike):  # never the name of published weights
                folder, file = os.path.split(os.fspath(path))
                object.__setattr__(self, name, os.path.join(folder or ".", file))
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "fractions", tuple(self.fractions))
        if len(self.fractions) != 3 or not all(isinstance(share, Real) for share in self.fractions):
            raise UserError(f"--split-fractions must be three shares that sum to 1, of train, valid and test, got {self.fractions}")

    @property
    def pretrained(self) -> bool:
        """Whether it starts from weights that are named."""
        return self.weights not in ("", NONE)

    @property
    def fitted_head(self) -> bool:
        """Whether the last layer begins as a linear model."""
        return self.pretrained and self.head_start == RIDGE

    @property
    def start(self) -> Path | None:
        """Path of the weights to start from; None for random ones. UserError for a name that is not known."""
        return located(self.weights) if self.pretrained else None

    def with_weights(self, hydrogens: str = "") -> "Settings":
        """The same with weights chosen, where nothing is said of them: see `default_weights`.

        Args:
            hydrogens: of DATA, where it is a store.
        """
        if self.weights:
            return self
        return replace(self, weights=self.default_weights(hydrogens)[0])

    def default_weights(self, hydrogens: str = "") -> tuple[str, str]:
        """(the weights that it begins with where nothing is said of them, why they are not the published ones); as in `with_weights`."""
        return default_weights(arch=self.arch, hydrogens=self.hydrogens or hydrogens, inputs=self.inputs)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def members(self) -> int:
        """How many models a run trains."""
        folds = len(SplitFile.load(Path(self.split_file)).folds) if self.split_file else self.folds * self.repeats
        return folds * self.ensemble

    def words(self) -> list[str]:
        """The options of `moleblend finetune` that give these, those of default values left out."""
        result: list[str] = []
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "targets":
                result += [word for target in value for word in ("--target", target)]
            elif value != each.default:
                result += [flag(each.name), ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
        return result


def flag(name: str) -> str:
    """The option of a setting."""
    return "--" + {"targets": "target", "fractions": "split-fractions"}.get(name, name).replace("_", "-")
