"""What is compared, on what: methods and data sets by the names of scales.toml."""

from dataclasses import dataclass
from typing import Literal

from moleblend_fs.errors import UserError
from moleblend_fs.sources.moleculenet import SETS


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        title: what tables call it.
        program: whose installation it needs: "forest" (scikit-learn and RDKit), "minimol", "chemprop" or "ours".
        trained: "here" by scikit-learn, as a "network" by a command.
        needs_weights: whether there is one for each of WEIGHTS.
        reads_structures: whether it is shown coordinates, on the sets that have them alone.
    """

    title: str
    program: Literal["forest", "minimol", "chemprop", "ours"] = "ours"
    trained: Literal["here", "network"] = "network"
    needs_weights: bool = False
    reads_structures: bool = False


METHODS = {
    "constant": Method(title="mean or majority", program="forest", trained="here"),
    "ecfp_forest": Method(title="ECFP + random forest", program="forest", trained="here"),
    "ecfp_linear": Method(title="ECFP + ridge or logistic regression", program="forest", trained="here"),
    "descriptors_boosting": Method(title="RDKit descriptors + gradient boosting", program="forest", trained="here"),
    "minimol": Method(title="MiniMol + best of four learners", program="minimol", trained="here"),
    "chemprop": Method(title="chemprop", program="chemprop"),
    "chemprop_rdkit": Method(title="chemprop + RDKit features", program="chemprop"),
    "scratch": Method(title="ours, from scratch"),
    "probe": Method(title="ours, frozen + linear", trained="here", needs_weights=True),
    "finetuned": Method(title="ours, finetuned", needs_weights=True),
    "ensemble": Method(title="ours, finetuned, larger ensemble", needs_weights=True),
    "scratch_3d": Method(title="ours, from scratch, 2D+3D", reads_structures=True),
    "finetuned_3d": Method(title="ours, finetuned, 2D+3D", needs_weights=True, reads_structures=True),
}


def title_of(method: str, weights: str) -> str:
    """What tables call a method with weights of a name, or ""."""
    return f"{METHODS[method].title} ({weights})" if weights else METHODS[method].title


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One set.

    Attributes:
        title: what pages call it. kind: of its labels. metric, unit: of its score.
        qm9: training molecules of QM9, whose gap is learned; 0 for a file of MoleculeNet.
    """

    title: str
    kind: str
    metric: str
    unit: str = ""
    qm9: int = 0


TITLES = {"esol": "ESOL", "freesolv": "FreeSolv", "lipo": "Lipophilicity", "bbbp": "BBBP", "bace": "BACE", "clintox": "ClinTox"}
METRICS = {"regression": "rmse", "classification": "roc_auc"}
_OF_QM9 = {"kind": "regression", "metric": "mae", "unit": "meV"}
DATA_SETS = {
    name: DataSet(title=TITLES.get(name, name), kind=found.kind, metric=METRICS[found.kind], unit=found.unit)
    for name, found in SETS.items()
} | {
    "qm9_1000": DataSet(title="QM9 gap (1,000 molecules)", qm9=1000, **_OF_QM9),
    "qm9_10000": DataSet(title="QM9 gap (10,000 molecules)", qm9=10_000, **_OF_QM9),
}


def check_names(methods: tuple[str, ...], data: tuple[str, ...]) -> None:
    """UserError for one that is not known."""
    for what, given, known in (("method", methods, METHODS), ("data set", data, DATA_SETS)):
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
