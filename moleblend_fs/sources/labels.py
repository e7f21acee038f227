"""Labels: what `--label` asks for, and the values of a row."""

import math
from collections.abc import Sequence

import numpy as np

from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.errors import UserError

KINDS = ("regression", "classification")


def parse_label(text: str, columns: Sequence[str] = ()) -> LabelSpec:
    """The label that "name", "name:kind" or "name:kind:unit" stands for; a column of just that name goes first."""
    name, kind, unit = text, "regression", ""
    if text not in columns and ":" in text:
        name, kind, unit = (*text.split(":", 2), "")[:3]
    if kind not in KINDS:
        raise UserError(f"--label {text}: the kind must be regression or classification, got {kind!r} (write NAME:KIND or NAME:KIND:UNIT)")
    return LabelSpec(name=name, unit=unit, kind=kind)


def read_labels(texts: Sequence[str], specs: Sequence[LabelSpec]) -> np.ndarray | str:
    """Label values of one row, (labels,) float32 with NaN for empty cells; or what is wrong with them."""
    values = np.full(len(specs), np.nan, dtype=np.float32)
    for i, (text, spec) in enumerate(zip(texts, specs, strict=True)):
        if text == "" or text.isspace():
            continue
        try:
            value = float(text)
        except ValueError:
            return f"label {spec.name!r} is {text!r}, not a number"
        if math.isinf(value):
            return f"label {spec.name!r} is infinite"
        if spec.kind == "classification" and value not in (0.0, 1.0) and not math.isnan(value):
            return f"label {spec.name!r} is {text}; a class must be 0, 1 or empty"
        values[i] = value
    return values
