"""The shell scripts: they parse, notice what is missing, and know when there is nothing to install."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), *ROOT.glob("examples/*/run.sh"), ROOT / "examples" / "common.sh", ROOT / ".ci" / "run"])
RUNS = sorted(ROOT.glob("examples/*/run.sh"))


def bash(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture
def tree(tmp_path):
    """A copy of all that decides whether something must be installed, with an empty environment."""
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "scripts/_env.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "moleblend_fs" / "chem").mkdir(parents=True)
    (tmp_path / "moleblend_fs" / "chem" / "_paths.c").write_text("int x;\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)
    stamp = 'cd "$ROOT"; { environment_key; echo chem; echo report; } >"$STAMP"'
    assert bash(f"source scripts/_env.sh; {stamp}", tmp_path).returncode == 0
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_script_parses(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", RUNS, ids=lambda path: path.parent.name)
def test_every_example_is_explained_and_can_be_started(script):
    assert os.access(script, os.X_OK)
    assert (script.parent / "README.md").is_file()


@pytest.mark.parametrize("extras", ["chem", "chem report"])
def test_complete_environment_is_left_alone(tree, extras):
    done = bash(f"source scripts/_env.sh; ensure_environment {extras}; command -v python", tree)
    assert done.stdout.splitlines() == [str(tree / ".venv" / "bin" / "python")]
    assert done.returncode == 0


@pytest.mark.parametrize("change", ["setup.py", "constraints.txt", "moleblend_fs/chem/_paths.c", "another extra", "another place"])
def test_changed_needs_are_noticed(tree, change):
    extras = "chem"
    if change == "another extra":
        extras = "chem dev"
    elif change == "another place":
        tree = tree.rename(tree.with_name(tree.name + "_moved"))
    else:
        with open(tree / change, "a") as stream:
            stream.write("\n")
    check = "cd $ROOT; is_installed " + extras
    assert bash(f"source scripts/_env.sh; {check}", tree).returncode == 1


def test_missing_python_is_explained(tree):
    shutil.rmtree(tree / ".venv")
    done = bash("source scripts/_env.sh; ensure_environment chem", tree, PYTHON="/nowhere/python3")
    assert done.returncode == 1
    assert "PYTHON=/nowhere/python3 is not a Python 3.11 or 3.12" in done.stderr
    tools = tree / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "head", "cat", "cksum", "tr"):
        (tools / name).symlink_to(shutil.which(name))
    done = bash("source scripts/_env.sh; ensure_environment chem", tree, PATH=str(tools), PYTHON="")
    assert done.returncode == 1
    assert "No Python 3.11 or 3.12" in done.stderr


def test_missing_compiler_is_explained(tree):
    (tree / ".venv" / ".moleblend-installed").unlink()
    tools = tree / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "head", "cat", "cksum", "tr", "basename"):
        (tools / name).symlink_to(shutil.which(name))
    done = bash("source scripts/_env.sh; ensure_environment chem", tree, PATH=str(tools), CC="no-such-cc")
    assert done.returncode == 1
    assert "No C compiler was found (tried no-such-cc, gcc)" in done.stderr


def test_unknown_moleculenet_set_is_refused(tmp_path):
    done = bash(
        f"'{ROOT}/examples/finetune_moleculenet/run.sh' nonsense", tmp_path, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    assert done.returncode == 2
    assert "bbbp" in done.stderr


def test_progress_lines():
    spec = importlib.util.spec_from_file_location("progress", ROOT / "examples" / "progress.py")
    progress = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(progress)
    train = 'now | INFO | train_inner | {"epoch": 1, "loss": "2.345", "num_updates": "20"}'
    valid = 'now | INFO | valid | {"epoch": 1, "valid_loss": "1.2", "valid_mae": "33", "valid_num_updates": "7"}'
    end = 'now | INFO | train | {"epoch": 1, "train_loss": "1.2", "train_num_updates": "7"}'
    assert progress.short(train) == "update     20   loss 2.345"
    assert progress.short(valid) == "update      7   validation loss 1.2   MAE 33"
    assert progress.short(end) is None
    assert progress.short("a line about {num_updates}") is None
