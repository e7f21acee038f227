"""One score of one method on one split, as all readers give it, and the names and directions of scores."""

from dataclasses import dataclass, field

from moleblend_fs.errors import UserError

LOWER = ("rmse", "mae", "mse", "log_loss")
HIGHER = ("roc_auc", "pr_auc", "r2", "balanced_accuracy", "accuracy", "f1", "mcc", "pearson", "spearman", "kendall")
"""Scores whose better direction is known, in the order in which one is chosen where none is asked for."""
PREFERRED = ("rmse", "roc_auc")
"""Taken first where a file has several."""
COSTS = {"seconds": "training, s", "molecules_per_second": "molecules/s", "memory_mb": "memory, MB", "install_mb": "installed, MB"}
"""What a run costs -> the name of its column beside the scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreLine:
    """One score.

    Attributes:
        method: what was trained. dataset: what on, also the name that is shown.
        split: what molecules train and test; methods are paired by it.
        metric, value: the score. unit: of the value or of what is predicted, "" where it has none or it is not known.
        seed: of several runs on one split, which are averaged.
        train, test: molecules of either, 0 where that is not known.
        tested, split_into: hashes of the test molecules with their labels, and of all molecules' parts; "" where not known.
        as_tables: of a run, what `tested` is in a table of predictions that names the molecules by their rows, or by a column of the input.
        costs: of `COSTS`, those that are known.
        where: the file, and the row in it, for messages.
    """

    method: str
    dataset: str
    split: str
    metric: str
    value: float
    unit: str = ""
    seed: str = ""
    train: int = 0
    test: int = 0
    tested: str = ""
    split_into: str = ""
    as_tables: frozenset[str] = frozenset()
    costs: dict[str, float] = field(default_factory=dict)
    where: str = ""


def named(metric: str) -> str:
    """A score's name as it is written here: "ROC-AUC" is roc_auc."""
    return metric.strip().lower().replace("-", "_").replace(" ", "_")


def is_higher_better(metric: str, higher: tuple[str, ...] = (), lower: tuple[str, ...] = ()) -> bool:
    """Which way a score is better; UserError where that is not known.

    Args:
        higher, lower: what the user says of scores.
    """
    if metric in higher or metric in lower:
        return metric in higher
    if metric in HIGHER or metric in LOWER:
        return metric in HIGHER
    raise UserError(f"metric {metric!r}: is more or less of it better? say --higher {metric} or --lower {metric}")
