"""Every module imports; and what may import what (the one-way street of docs/architecture.md)."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_plugins
import moleblend_fs

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for package in (moleblend_fs, fairseq_plugins)
    for module in pkgutil.walk_packages(package.__path__, prefix=package.__name__ + ".", onerror=lambda name: None)
)
HEAVY = ("torch", "fairseq", "deepspeed", "rdkit", "triton", "numpy")
CHEMISTRY = ("rdkit", "ogb", "pandas")
FAIRSEQ = ("fairseq", "fairseq_cli", "fairseq_plugins")

# folder -> top-level packages that nothing in it may import, not even inside a function
FORBIDDEN = {
    "moleblend_fs/chem": (*FAIRSEQ, "torch", "deepspeed"),
    "moleblend_fs/sources": (*FAIRSEQ, "deepspeed"),
    "moleblend_fs/data": (*FAIRSEQ, *CHEMISTRY, "deepspeed"),
    "moleblend_fs/ops": (*FAIRSEQ, *CHEMISTRY, "deepspeed"),
    "moleblend_fs/model": (*FAIRSEQ, *CHEMISTRY, "deepspeed"),
    "moleblend_fs/objectives": (*FAIRSEQ, *CHEMISTRY, "deepspeed"),
    "moleblend_fs/inference": (*FAIRSEQ, *CHEMISTRY, "deepspeed"),
    "moleblend_fs/distributed": (*FAIRSEQ, *CHEMISTRY),
    "moleblend_fs/tasks": CHEMISTRY,
    "fairseq_plugins": CHEMISTRY,
}


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name):
    if ".kernels." in name:
        pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    importlib.import_module(name)


def test_importing_the_package_is_cheap():
    check = f"import sys, moleblend_fs; sys.exit(' '.join(sorted(set(sys.modules) & set({HEAVY!r}))) or None)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == ""
    assert done.returncode == 0


def test_training_needs_no_chemistry():
    """All that fairseq loads for `--user-dir moleblend_fs` imports where rdkit, ogb and pandas are not installed."""
    check = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {CHEMISTRY!r}:
            raise ModuleNotFoundError(f'absent: {{name}}', name=name)
sys.meta_path.insert(0, Absent())
import moleblend_fs.tasks, moleblend_fs.data.batch, moleblend_fs.data.store
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder):
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong += [f"{path}:{node.lineno}: {name}" for name in names if name.split(".")[0] in FORBIDDEN[folder]]
    assert not wrong
