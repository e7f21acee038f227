"""Finetuning from Python: `Finetuner` for a folder with everything, and two estimators for scikit-learn."""

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from moleblend_fs.data.model_description import reads_structures
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data_in_memory import written
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import Outcome, finetune
from moleblend_fs.finetune.run_folder import OtherRunError
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.predictions.api import Predictions, Predictor
from moleblend_fs.predictions.in_memory import is_missing, only_column
from moleblend_fs.sources.excel_parquet import named
from moleblend_fs.wording import counted, verb

TARGET = "y"
KEPT = ("model.json", "calibration.json", "training_molecules.csv")
"""Files of a run that prediction needs, besides the members' checkpoints."""


class Finetuner:
    """From molecules and values to a folder as `moleblend finetune` writes it, and to predictions.

    Args:
        target: name of the column, or names of several; of `y`, the names that its columns get.
        out: the folder; by default a temporary one, which lasts as long as this object. A fit that was stopped goes on in it.
            Pickled, an object carries the files of a temporary folder with it, and of another one the path.
        jobs: members at a time; 0 for what the machine has. verbose: show how far it is.
        cache: whether molecules that an earlier fit made of the same content may be taken (docs/finetune.md).
        settings: any of `moleblend_fs.finetune.settings.Settings`: epochs, ensemble, split, folds, weights, inputs, ...

    Attributes:
        outcome_: metrics, and what the user should be told of the input.
    """

    outcome_: Outcome

    def __init__(self, target: str | Sequence[str] = TARGET, *, out: str | os.PathLike | None = None, jobs: int = 0, verbose: bool = False,
                 cache: bool = True, **settings: Any):  # fmt: skip
        if jobs < 0:
            raise UserError(f"jobs must not be negative, got {jobs}")
        self.targets = (target,) if isinstance(target, str) else tuple(target)
        known = [field.name for field in fields(Settings) if field.name not in ("targets", "smiles_column")]
        if unknown := [name for name in settings if name not in known]:
            raise UserError(f"no setting {unknown[0]!r}; there are: {', '.join(known)}")
        self.settings = Settings(targets=self.targets, **settings)
        self._temporary = None if out is not None else _temporary_folder()
        # Absolute: it is the same folder after a change of the program's own, and in another process.
        self.out = Path(os.path.abspath(out)) if out is not None else Path(self._temporary.name, "run")  # type: ignore[union-attr]
        self.jobs, self.verbose, self.cache = jobs, verbose, cache
        self._predictor: Predictor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What `pickle` and `copy` take: a temporary folder as the content of its files, by their paths in it."""
        files = None if self._temporary is None else {str(path.relative_to(self.out)): path.read_bytes() for path in files_in(self.out)}
        return self.__dict__ | {"_temporary": None, "_predictor": None, "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse; files are written to a temporary folder of this object's own."""
        files = state.pop("files")
        self.__dict__.update(state)
        if files is None:
            return
        self._temporary = _temporary_folder()
        self.out = Path(self._temporary.name, "run")
        write_files(self.out, files)
        if "outcome_" in state:
            self.outcome_ = replace(self.outcome_, out=self.out)

    @property
    def metrics_(self) -> dict[str, Any]:
        """Content of metrics.json; AttributeError before `fit`."""
        return self.outcome_.metrics

    def fit(self, molecules: Any, y: Any = None) -> "Finetuner":
        """Train.

        Args:
            molecules: path of a table, a table with a column of SMILES or RDKit molecules (pandas, polars, Arrow, or a dict of columns), or
                a sequence of either. Conformers of RDKit molecules are taken with their coordinates where `inputs` has 3D.
            y: (n,) or (n, targets) values, missing ones as NaN or None, in the molecules' order; of a table the columns that the targets
                name. None where the molecules' table has them.
        """
        self._predictor = None
        if y is None and isinstance(molecules, str | os.PathLike):
            self.outcome_ = self._learned(Path(molecules))
            return self
        with tempfile.TemporaryDirectory(prefix="moleblend-data-") as folder:
            table = written(molecules, y, self.targets, Path(folder), structures=reads_structures(self.settings.inputs))
            with named(table, "the molecules"):
                self.outcome_ = self._learned(table)
        return self

    def _learned(self, table: Path) -> Outcome:
        """What the command makes of a table; a temporary folder that has a run of another one gives way to a new one."""
        how: dict[str, Any] = {"jobs": self.jobs, "progress": Progress(quiet=not self.verbose), "cache": self.cache}
        try:
            return finetune(table, self.out, self.settings, **how)
        except OtherRunError:
            if self._temporary is None:
                raise
        self._temporary.cleanup()
        self._temporary = _temporary_folder()
        self.out = Path(self._temporary.name, "run")
        return finetune(table, self.out, self.settings, **how)

    def predict(self, molecules: Any) -> Predictions:
        """Values, spread, intervals and status of each molecule; see `Predictor.predict`."""
        if self._predictor is None:
            if not self.out.exists():
                raise NotFittedError("this Finetuner has not learned anything: call fit first")
            self._predictor = Predictor(self.out, precision=self.settings.precision)
        return self._predictor.predict(molecules)


def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="moleblend-")


def files_in(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, given by their paths in a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class _MoleBlendEstimator(BaseEstimator):
    """What both estimators share. X is a sequence of SMILES or RDKit molecules, or a table of one column of them.

    A fitted estimator holds its models' files itself: it can be pickled, copied and sent to other processes.

    Args:
        epochs, batch_size, lr, arch: 0 and "" for what docs/finetune.md says for the number of molecules.
        weights: a name, the path of a checkpoint, "none", or "", as --weights has them. inputs: "2d", "3d" or "2d+3d".
        ensemble: models, which differ in their seed.
        split: how the molecules that choose the best epoch are taken from those given: "random", "scaffold-balanced", ...
        validation_fraction: how many these are.
        seed: of all that is random. jobs: models that are trained at a time; 0 for what the machine has.
    """

    KIND = ""

    def __init__(self, *, epochs: int = 0, batch_size: int = 0, lr: float = 0.0, arch: str = "", weights: str = "", inputs: str = "2d",
                 ensemble: int = 1, split: str = "random", validation_fraction: float = 0.1, seed: int = 0, jobs: int = 0):  # fmt: skip
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.arch = arch
        self.weights = weights
        self.inputs = inputs
        self.ensemble = ensemble
        self.split = split
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.jobs = jobs

    def _fit(self, X: Any, y: np.ndarray) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}")
        mols = only_column(X)
        if y.ndim not in (1, 2):
            raise ValueError(f"y must be (n,) or (n, targets), got the shape {y.shape}")
        if np.isinf(y).any():
            raise ValueError(f"y is infinite for molecule {np.argwhere(np.isinf(y))[0][0]}, counted from 0")
        if len(mols) != len(y):
            raise ValueError(f"X has {counted(len(mols), 'molecule')} and y {counted(len(y), 'value')}")
        names = ("epochs", "batch_size", "lr", "arch", "weights", "inputs", "ensemble", "split", "seed", "jobs")
        shares = (1 - self.validation_fraction, self.validation_fraction, 0.0)
        targets = [TARGET] if y.ndim == 1 else [f"{TARGET}{i}" for i in range(y.shape[1])]
        options = {name: getattr(self, name) for name in names}
        with tempfile.TemporaryDirectory(prefix="moleblend-") as folder:
            out = Path(folder, "run")
            failed = Finetuner(targets, out=out, kind=self.KIND, fractions=shares, **options).fit(mols, y).outcome_.failed
            members = sorted(path.relative_to(out) for path in out.glob("members/*/checkpoint_best.pt"))
            self.files_ = {str(name): (out / name).read_bytes() for name in [*map(Path, KEPT), *members]}
        if failed:
            told = f"{counted(failed, 'molecule')} cannot be read, and nothing was learned from {verb(failed, 'it', 'them')}"
            warnings.warn(told, stacklevel=3)
        self.n_features_in_ = 1
        self._loaded: Predictor | None = None

    def _predictions(self, X: Any) -> Predictions:
        check_is_fitted(self, "files_")
        if getattr(self, "_loaded", None) is None:
            with tempfile.TemporaryDirectory(prefix="moleblend-") as folder:
                write_files(Path(folder), self.files_)
                self._loaded = Predictor(folder, similarity=False)
        assert self._loaded is not None
        found = self._loaded.predict(only_column(X))
        if bad := [status for status in found.status if status.startswith("no ")]:
            warnings.warn(f"{counted(len(bad), 'molecule has', 'molecules have')} no prediction; why, of the first: {bad[0]}", stacklevel=3)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_loaded"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags


def values_of(y: Any) -> np.ndarray:
    """Numbers as float64, NaN for all that stands for a missing one."""
    try:
        return np.asarray(y, dtype=np.float64)
    except TypeError:  # pandas' NA among plain numbers is no number
        return np.vectorize(lambda value: np.nan if is_missing(value) else value, otypes=[np.float64])(np.asarray(y, dtype=object))


class MoleBlendRegressor(RegressorMixin, _MoleBlendEstimator):
    """Quantities of molecules; `y` may have several columns, NaN where a value is missing."""

    KIND = "regression"

    def fit(self, X: Any, y: Any) -> "MoleBlendRegressor":
        """Train on molecules and their values."""
        self._fit(X, values_of(y))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(n,) or (n, targets) values; NaN, with a warning, where a molecule cannot be read."""
        values = self._predictions(X).values
        return values[:, 0] if values.shape[1] == 1 else values


class MoleBlendClassifier(ClassifierMixin, _MoleBlendEstimator):
    """Two classes of molecules."""

    KIND = "classification"

    def fit(self, X: Any, y: Any) -> "MoleBlendClassifier":
        """Train on molecules and their classes, of any two names."""
        if missing := [i for i, value in enumerate(y) if is_missing(value)]:
            raise ValueError(f"y has no class for molecule {missing[0]}, counted from 0; leave such molecules out")
        y = np.asarray(y)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if y.ndim > 1 or len(self.classes_) != 2:
            raise ValueError(f"two classes are needed, got {len(self.classes_)}" if y.ndim == 1 else f"y must be (n,), got {y.shape}")
        self._fit(X, (y == self.classes_[1]).astype(np.int64))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, 2) probabilities of the classes, in the order of `classes_`."""
        positive = self._predictions(X).values[:, 0]
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """(n,) the likelier class; the first where a molecule cannot be read."""
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]
