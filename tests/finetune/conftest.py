"""Small tables of real molecules, and runs of `moleblend finetune` on them that cost seconds."""

import os
from pathlib import Path

import pytest

from moleblend_fs.finetune.run import Outcome, finetune
from moleblend_fs.finetune.settings import Settings
from tests.support.forked_members import forked_members

ESOL = """OCC3OC(OCC2OC(OC(C#N)c1ccccc1)C(O)C(O)C2O)C(O)C(O)C3O,-0.77
Cc1occc1C(=O)Nc2ccccc2,-3.3
CC(C)=CCCC(C)=CC(=O),-2.06
c1ccc2c(c1)ccc3c2ccc4c5ccccc5ccc43,-7.87
c1ccsc1,-1.33
c2ccc1scnc1c2,-1.5
Clc1cc(Cl)c(c(Cl)c1)c2c(Cl)cccc2Cl,-7.32
ClC4=C(Cl)C5(Cl)C3C1CC(C2OC12)C3C4(Cl)C5(Cl)Cl,-6.29
CC(=O)N,1.58
CCCCCCCCCC,-6.98
CCO,1.1
CC(C)Cc1ccc(cc1)C(C)C(=O)O,-3.99
Oc1ccccc1,0.0
Nc1ccccc1,-0.41
Clc1ccccc1,-2.38
CCCCO,0.0
CCCCCC,-3.84
C1CCCCC1,-3.1
O=C1CCCCC1,-0.6
CC(=O)OC1CCCCC1,-1.67
c1ccc2ccccc2c1,-3.6
c1ccc2cnccc2c1,-1.45
CCOC(=O)c1ccccc1,-2.32
CCCCCCCl,-3.12
"""
"""Molecules of ESOL with their log solubility, and some more."""
QUICK = {"epochs": 2, "batch_size": 8, "ensemble": 1, "arch": "tiny"}


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """A user's CSV with identifiers, a bad SMILES, a number that is none, and an empty value."""
    lines = [f"m{i},{line}" for i, line in enumerate(ESOL.strip().splitlines())]
    lines[3:3] = ["bad,c1ccccc,-1.0", "text,CCN,soluble", "empty,CCCN,"]
    path = tmp_path_factory.mktemp("tables") / "esol.csv"
    path.write_text("name,smiles,logS\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Members are started with it, so that their bits do not depend on the machine's load."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


@pytest.fixture(scope="session", autouse=True)
def quick_members():
    """Members of runs in this process are forked; those of commands that tests start are real."""
    with forked_members():
        yield


@pytest.fixture(scope="session")
def finetuned(table, tmp_path_factory) -> Outcome:
    """A run with a random split and two members."""
    settings = Settings(**QUICK | {"ensemble": 2}, targets=("logS",), split="random")
    return finetune(table, tmp_path_factory.mktemp("runs") / "esol", settings)
