"""What the examples' scripts ask `moleblend train` for: recorded from the scripts, then really trained for one update.

The quickstart is run as a whole in tests/scripts.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moleblend_fs.cli.train import with_user_dir
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ROOT, Run, run_here

RECORD = """() { [ "$1" != train ] || printf '%s\\0' "${@:2}" $'\\n' >> "$RECORD"; }"""
SCRIPTS = {
    "pretrain_qm9": ("qm9", [], {}),
    "pretrain_pcqm4mv2": ("qm9", [], {"GPUS": "1", "BATCH": "32", "GLOBAL_BATCH": "64"}),
    "finetune_qm9": ("qm9", [], {"TARGET": "homo"}),
    "finetune_moleculenet": ("esol", ["esol"], {"SEEDS": "3"}),
    "pcqm4mv2_gap": ("esol", [], {}),
}


@pytest.fixture(scope="module")
def stores(qm9_store, shared, tmp_path_factory) -> dict[str, Path]:
    source = shared / "data" / "moleculenet" / "esol.csv.gz"
    esol = preprocessed(tmp_path_factory.mktemp("stores") / "esol", "moleculenet", str(source), "--limit", "80")
    return {"qm9": qm9_store.path, "esol": esol.path}


def commands_of(example: str, words: list[str], settings: dict[str, str], folder: Path) -> list[list[str]]:
    """Arguments of every `moleblend train` that a script starts, which itself starts none."""
    record = folder / "commands"
    functions = {"BASH_FUNC_moleblend%%": RECORD}
    path = {"RECORD": str(record), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PRETRAINED": "none", "ARCH": "tiny"}
    script = ROOT / "examples" / example / "run.sh"
    environment = os.environ | functions | path | settings | {"OUT": str(folder / "out")}
    done = subprocess.run(["bash", str(script), *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("\0")[:-1] for line in record.read_text().split("\n\0")[:-1]]


@pytest.mark.parametrize("example", SCRIPTS)
def test_an_example_trains(example, stores, tmp_path):
    store, words, settings = SCRIPTS[example]
    commands = commands_of(example, words, settings | {"STORE": str(stores[store])}, tmp_path)
    assert len(commands) == 1
    arguments = commands[0]
    assert arguments[0] == str(stores[store])
    shorter = ("--max-update", "1", "--num-workers", "0", "--log-interval", "1", "--no-save")
    run: Run = run_here([*with_user_dir(arguments), *shorter], tmp_path)
    assert run.code == 0, run.output[-2000:]
    assert len(run.logged("train_inner")) == 1
    assert run.column("train_inner", "molecules")[0] >= 32
    assert len(run.logged("valid")) == 1
