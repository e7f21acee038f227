"""Predictions from Python: `from moleblend_fs import Predictor`."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from moleblend_fs.data.model_description import Described
from moleblend_fs.errors import UserError
from moleblend_fs.inference.checkpoint_fit import parse_allowed
from moleblend_fs.predictions.combining import combine
from moleblend_fs.predictions.hydrogens_and_structures import HYDROGENS, prepare
from moleblend_fs.predictions.in_memory import taken
from moleblend_fs.predictions.open_model import open_model
from moleblend_fs.predictions.rows import Made, default_workers, made_of
from moleblend_fs.predictions.streaming import windows
from moleblend_fs.predictions.table import LEVEL, Column, PredictionTable, own_columns
from moleblend_fs.shared_options import Precision, check_precision
from moleblend_fs.sources.molecules_to_predict import Incoming

FEW = 256
"""Molecules up to which this process makes them itself: starting others takes longer."""
TOKENS = 16_384
Molecules = Any
"""What `in_memory.taken` takes: a SMILES or an RDKit molecule, a sequence of either, a table with a column of them, the path of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Predictions of n molecules, in the order that they were given.

    Attributes:
        targets: names. kinds, units: of each.
        smiles: of the molecules, or what was given where there is none.
        values: (n, targets) in the targets' units, probabilities for classification; NaN where there is no prediction.
        status: "ok", or why there is none, or what else is to be said.
        std: (n, targets) standard deviation of the members' predictions; None for a single model.
        low, high: (n, targets) conformal intervals; NaN for classes. None where nothing was calibrated.
        similarity: (n,) to the nearest training molecule, NaN for what is none. outside: (n,) objects: True where that is too low, False,
            or None for what is no molecule. Both are None where training molecules are not known.
        columns: of the input: name -> a cell for each row; of a table in memory the values that it has.
        index: of a DataFrame or Series of pandas that was given; None otherwise.
    """

    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    units: tuple[str, ...]
    smiles: list[str]
    values: np.ndarray
    status: list[str]
    std: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    similarity: np.ndarray | None = None
    outside: np.ndarray | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    index: Any = None

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, target: str) -> np.ndarray:
        """(n,) values of a target."""
        if target not in self.targets:
            raise KeyError(f"no target {target!r}; there are: {', '.join(self.targets)}")
        return self.values[:, self.targets.index(target)]

    def to_dict(self) -> dict[str, Any]:
        """Column name -> n values, named as `moleblend predict` does."""
        result: dict[str, Any] = dict(self.columns)
        for column in self._own():
            array = getattr(self, column.holds)
            result[column.name] = array[:, column.target] if column.holds in ("values", "std", "low", "high") else array
        return result

    def to_pandas(self) -> Any:
        """A DataFrame of `to_dict`, with the index of what was given; what is not known is missing there, too."""
        import pandas

        result = pandas.DataFrame(self.to_dict(), index=self.index)
        for column in self._own():
            if column.holds == "outside":
                result[column.name] = result[column.name].astype("boolean")
        return result

    def _own(self) -> list[Column]:
        """Columns besides the input's."""
        known = {"several": self.std is not None, "intervals": self.low is not None, "domain": self.similarity is not None}
        return own_columns(list(self.columns), self.targets, self.kinds, **known)


class Reader:
    """What Predictor, Embedder and Explainer share: how molecules are taken, and that other processes open the same model anew."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        made = super().__new__(cls)
        made._made_with = arguments, named
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (type(self), *self._made_with)

    def __init__(
        self,
        workers: int | None,
        hydrogens: str | None,
        allow_differences: Iterable[str],
        row_timeout: float,
        tell: Callable[[str], None] | None,
    ):
        if workers is not None and workers < 0:
            raise UserError(f"workers must not be negative, got {workers}")
        if not row_timeout > 0:
            raise UserError(f"row_timeout must be above 0 seconds, got {row_timeout}")
        if hydrogens not in (None, *HYDROGENS):
            raise UserError(f"hydrogens must be one of {', '.join(HYDROGENS)}, got {hydrogens!r}")
        self._workers, self._hydrogens, self._timeout = workers, hydrogens, row_timeout
        self._allowed = parse_allowed(",".join(allow_differences))
        self._told: set[str] = set()
        self._tell = tell or warn

    def _rows(self, incoming: Incoming, described: Described, inputs: str, purpose: Literal["predict", "embed"]) -> Iterator[list[Made]]:
        """All rows with their molecules, made as for the model's training."""
        said = prepare(
            incoming, described, purpose=purpose, inputs=inputs, name=incoming.called, hydrogens=self._hydrogens, allowed=self._allowed
        )
        for line in [line for line in [*incoming.notes, *said] if line not in self._told]:
            self._told.add(line)
            self._tell(line)
        workers = self._workers
        if workers is None:
            few = not incoming.files() and incoming.count() <= FEW
            workers = 0 if few else default_workers()
        return made_of(incoming, workers=workers, row_timeout=self._timeout)


class Predictor(Reader):
    """A checkpoint, or a folder of `moleblend finetune`, ready to predict.

    Args:
        path: see `moleblend predict`.
        device: "cpu", "cuda", ...; by default cuda where there is one.
        max_tokens: most tokens in a batch.
        precision: "float32", or "bf16" for large matrix products in bfloat16, which processors with avx512_bf16 or AMX do faster.
        workers: processes that make molecules; by default none for few molecules.
        interval: share of values that intervals are to hold.
        similarity: whether to compare with the training molecules.
        hydrogens: "none" or "explicit", for models that do not say what they were trained on.
        allow_differences: see `--allow-differences`.
        row_timeout: seconds for a molecule, where other processes make them.
        tell: is given what should be known, a sentence each; by default these are warnings.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        device: str | None = None,
        max_tokens: int = TOKENS,
        precision: Precision = "float32",
        workers: int | None = None,
        interval: float = LEVEL,
        similarity: bool = True,
        hydrogens: str | None = None,
        allow_differences: Iterable[str] = (),
        row_timeout: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ):
        super().__init__(workers, hydrogens, allow_differences, row_timeout, tell)
        if not 0 < interval < 1:
            raise UserError(f"interval must lie between 0 and 1, got {interval}")
        self.model, self.interval = open_model(path), interval
        self.device = self.model.device(device)
        self._forward = self.model.computing(self.device, max_tokens, check_precision(precision))
        self._domain = self.model.domain() if similarity else None

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads."""
        self._forward.close()

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what is predicted."""
        return self.model.about.targets

    def __call__(self, molecules: Molecules) -> Predictions:
        return self.predict(molecules)

    def predict(self, molecules: Molecules) -> Predictions:
        """Predictions of molecules; all are held in memory, `moleblend predict` streams.

        Args:
            molecules: a SMILES or an RDKit molecule; a list, Series or array of either, in which some may be missing; a table with a column
                of them (pandas, polars, Arrow, or a dict of columns), whose other columns go along; or the path of a file (a `Path`, or a
                str that names a file). Conformers of RDKit molecules are taken with their coordinates where the model reads structures.

        Raises:
            UserError: the molecules do not fit the model. Single ones that cannot be read have their reason in `status`.
        """
        incoming = taken(molecules)
        table = PredictionTable(self.model, incoming.columns, domain=self._domain, level=self.interval)
        none = np.zeros((len(self.model.abouts), 0, len(self.targets)))
        parts, statuses, smiles = [combine(self.model, none, self.interval)], [], []
        nearness = [(np.zeros(0), np.zeros(0, dtype=object))]
        cells: list[Sequence[str]] = []
        rows = self._rows(incoming, self.model.described, self.model.about.inputs, "predict")
        for window in windows(rows, self._forward):
            combined, finite = table.combined(window)
            parts.append(combined)
            statuses += table.statuses(window, finite)
            smiles += [row.smiles for row in window.rows]
            cells += [row.cells for row in window.rows]
            if (near := table.nearness(window)) is not None:
                nearness.append(near)
        arrays: dict[str, Any] = {}
        for name in ("values", "std", "low", "high"):
            arrays[name] = None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
        similarity, outside = (None, None) if self._domain is None else map(np.concatenate, zip(*nearness, strict=True))
        return Predictions(
            targets=self.targets,
            kinds=self.model.about.kinds,
            units=self.model.about.units,
            smiles=smiles,
            status=statuses,
            similarity=similarity,
            outside=outside,
            columns=incoming.frame or {name: [row[i] for row in cells] for i, name in enumerate(told_apart(incoming.columns))},
            index=incoming.index,
            **arrays,
        )


def warn(line: str) -> None:
    """A warning, at the line of the program that called the package."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
        frame, level = frame.f_back, level + 1
    warnings.warn(line, stacklevel=level)


def _opened_again(kind: type[Reader], arguments: tuple[Any, ...], named: dict[str, Any]) -> Reader:
    return kind(*arguments, **named)


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of columns, each once: of those that stand in a file again the second is "NAME (2)"."""
    result: list[str] = []
    for name in names:
        number, told = 1, name
        while told in result:
            number += 1
            told = f"{name} ({number})"
        result.append(told)
    return result
