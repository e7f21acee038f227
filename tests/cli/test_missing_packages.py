"""A package that is not installed is named, with the extra that brings it."""

import os
import subprocess
import sys

import pytest

from moleblend_fs.cli.main import EXTRA_OF
from moleblend_fs.errors import UserError
from moleblend_fs.inference import attribution

pytestmark = pytest.mark.cold

WITHOUT = "import sys; sys.modules[{!r}] = None; from moleblend_fs.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("matplotlib", ["finetune", "mine.csv", "out", "--target", "y"]),
        ("optuna", ["tune", "mine.csv", "out", "--target", "y"]),
        ("onnx", ["export", "model", "out.onnx"]),
        ("rdkit", ["explain", "model", "CCO"]),
    ],
)
def test_the_extra_is_named_and_nothing_is_written(package, words, tmp_path):
    (tmp_path / "mine.csv").write_text("smiles,y\nC,1.5\n")
    command = [sys.executable, "-c", WITHOUT.format(package), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    wanted = f"moleblend {words[0]}: needs the package {package}, which is not installed: pip install 'moleblend-fs[{EXTRA_OF[package]}]'"
    assert done.stderr.strip() == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_doctor_goes_on_without_a_package_that_reading_weights_needs(tmp_path):
    """It is the command that tells of packages."""
    (tmp_path / "weights" / "mine").mkdir(parents=True)
    (tmp_path / "weights" / "mine" / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format("safetensors"), "doctor"],
        env=os.environ | {"MOLEBLEND_WEIGHTS": str(tmp_path / "weights")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "weights          mine: import of safetensors halted" in done.stdout
    assert "op attention" in done.stdout
    assert done.stderr == ""


def test_explaining_from_python_names_it_too(monkeypatch):
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"captum.*moleblend-fs\[explain\]"):
        attribution.captum()
