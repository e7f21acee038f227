"""A small store and a model of it, for cases in which a model meets something else."""

from pathlib import Path

import pytest

from moleblend_fs.data.store import Store
from tests.cases.commands import preprocess
from tests.fairseq_plugins.runs import ADAM, FINETUNE, SMALL, train

UNIT = "logS:regression:log mol/L"
RINGS = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCNCC1")
BASE = [f"{'C' * n}{end}{ring}" for n in range(1, 5) for end in ("", "O", "N") for ring in RINGS]
OPTIONS = (*FINETUNE, *ADAM, *SMALL, "--inputs", "2d", "--batch-size", "16", "--max-update", "2")


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Store:
    """48 molecules with solubilities in log mol/L."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "base.csv").write_text("smiles,logS\n" + "".join(f"{s},{i / 10 - 3}\n" for i, s in enumerate(BASE)))
    assert preprocess(folder / "store", "csv", folder / "base.csv", "--label", UNIT).code == 0
    return Store(folder / "store")


@pytest.fixture(scope="session")
def trained(base, tmp_path_factory) -> Path:
    """A model of it after two updates."""
    folder = tmp_path_factory.mktemp("trained")
    run = train(base.path, folder, *OPTIONS)
    assert run.code == 0, run.output[-2000:]
    return folder / "checkpoint_best.pt"
