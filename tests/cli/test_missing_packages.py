"""A package that is not installed is named, with the extra that brings it."""

import subprocess
import sys

import pytest

from moleblend_fs.cli.main import EXTRA_OF
from moleblend_fs.errors import UserError
from moleblend_fs.inference import attribution

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


def test_explaining_from_python_names_it_too(monkeypatch):
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"captum.*moleblend-fs\[explain\]"):
        attribution.captum()
