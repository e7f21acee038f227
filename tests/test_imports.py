"""Every module imports; and what may import what (the one-way street of docs/architecture.md)."""

import ast
import csv
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_plugins
import moleblend_fs
from moleblend_fs import Predictor
from moleblend_fs.cli.main import main
from moleblend_fs.objectives.registry import objectives
from tests.inference.untrained_models import untrained
from tests.predictions.run_folders import run_folder

pytestmark = pytest.mark.cold

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for package in (moleblend_fs, fairseq_plugins)
    for module in pkgutil.walk_packages(package.__path__, prefix=package.__name__ + ".", onerror=lambda name: None)
)
HEAVY = ("torch", "fairseq", "deepspeed", "rdkit", "triton", "numpy")
CHEMISTRY = ("rdkit", "ogb", "pandas")
NOT_LIGHT = (
    *("deepspeed", "fairseq", "fairseq_cli", "fairseq_plugins", "hydra", "lmdb", "matplotlib", "ogb", "omegaconf", "onnx", "pandas"),
    *("safetensors", "scipy", "sklearn", "tensorboard", "torch", "tqdm", "triton"),
)
"""Packages that `pip install 'moleblend-fs[onnx]'` does not bring."""

FOR_ALL = {"errors", "files", "locks", "option_fields", "shared_options", "wording"}
"""Modules that every room may import."""
WATCHED = {
    *("deepspeed", "fairseq", "fairseq_cli", "fairseq_plugins", "lmdb", "matplotlib", "numpy", "ogb", "omegaconf", "onnx", "onnxruntime"),
    "pandas",
    *("openpyxl", "optuna", "pyarrow", "rdkit", "safetensors", "scipy", "sklearn", "torch", "tqdm", "triton", "tests", "benchmarks"),
}
"""Packages that a room imports only where the table says so."""


def table_of_rooms() -> dict[str, set[str]]:
    """Folder -> what it may import, as docs/architecture.md has it."""
    rows = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if found := re.fullmatch(r"\| `([\w/]+)/` \| .* \| ([^|]*) \|", line):
            rows[found[1]] = set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", found[2])))
    return rows


ROOMS = table_of_rooms()


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, name) of every import, within functions too, and of modules imported by a string: our room, or a top-level package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "moleblend_fs" else [module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            names = [ast.unparse(node.args[0]).lstrip("f").strip("'\"")]
        for name in names:
            top, _, rest = name.partition(".")
            found.append((node.lineno, rest.partition(".")[0] if top == "moleblend_fs" and rest else top))
    return found


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name):
    if ".kernels." in name:
        pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    if ".onnx_export" in name:
        pytest.importorskip("onnx", reason="the export needs onnx (pip install 'moleblend-fs[export]')")
    if ".onnx_" in name or name.endswith(".predictions.exported_model"):
        pytest.importorskip("onnxruntime", reason="exported models need onnxruntime (pip install 'moleblend-fs[onnx]')")
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


def test_stores_are_made_without_torch(tmp_path):
    """Neither the command nor its processes wait for it."""
    (tmp_path / "in.smi").write_text("CCO\nc1ccccc1\n")
    words = ["preprocess", "smiles", str(tmp_path / "in.smi"), str(tmp_path / "store"), "--workers", "1", "--no-progress"]
    command = [sys.executable, "-m", "moleblend_fs.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.stderr
    loaded = re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)
    assert loaded.count("moleblend_fs.sources.workers") == 2
    assert not {"torch", "pandas", "ogb", "sklearn"} & set(loaded)


def test_predicting_imports_neither_compilers_nor_scores(tmp_path):
    """Each takes a second or more of a command that may take two: torch imports its compiler to draw weights on its meta device."""
    slow = {"torch._dynamo", "triton", "sklearn", "fairseq", "sympy"}
    words = ["predict", str(untrained(tmp_path / "model")), "--smiles", "CCO"]
    check = f"import sys; from moleblend_fs.cli.main import main; main({words}); sys.exit(' '.join({slow} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("smiles,y"), done.stderr
    assert done.returncode == 0, done.stderr


def test_training_imports_neither_compilers_nor_what_other_tasks_of_fairseq_need(qm9_store, tmp_path):
    """Half of what a short run would take; ranks that it starts are spared it too."""
    task = "--task moleblend --criterion blend_then_predict --arch moleblend_tiny --optimizer adam --lr 1e-3 --batch-size 64"
    two = "--max-update 1 --num-workers 0 --cpu --distributed-world-size 2 --save-dir"
    options = [*task.split(), *two.split(), str(tmp_path)]
    command = [sys.executable, "-m", "moleblend_fs.cli.main", "train", str(qm9_store.path), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.stdout
    loaded = re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)
    assert loaded.count("fairseq_plugins") == 3
    assert not {"torch._dynamo", "triton", "sklearn", "scipy.stats", "deepspeed", "lxml", "pandas"} & set(loaded)


def test_what_is_postponed_is_imported_when_it_is_used():
    """By fairseq's other tasks as by anyone else, afterwards; what is not installed still is not."""
    check = """
import sys
from moleblend_fs.cli.postponed_imports import postponed
with postponed(("sklearn", "sklearn.metrics", "scipy.stats", "not_installed")):
    from fairseq.criterions import sentence_prediction
    from fairseq.tasks import audio_classification
    assert not {"sklearn", "scipy.stats"} - set(sys.modules)
    assert "not_installed" not in sys.modules
assert not {"sklearn", "sklearn.metrics", "scipy.stats"} & set(sys.modules)
print(sentence_prediction.f1_score([1, 0, 1], [1, 1, 1]), audio_classification.sklearn_metrics.roc_auc_score([0, 1], [0.1, 0.2]))
import scipy, sklearn
print(round(sentence_prediction.pearsonr([1.0, 2, 3], [2.0, 4, 6]).statistic, 9), scipy.stats.rankdata([3, 5]), sklearn.__version__ > "1")
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split()[-6:] == ["0.8", "1.0", "1.0", "[1.", "2.]", "True"], done.stderr


def test_exported_models_need_neither_torch_nor_fairseq_nor_lmdb(tmp_path):
    """`predict`, `embed` and `Predictor` of an ONNX file, with processes that make molecules, where nothing else is installed."""
    pytest.importorskip("onnx", reason="the export needs onnx (pip install 'moleblend-fs[export]')")
    folder = run_folder(tmp_path / "run", members=2)
    assert main(["export", str(folder), str(tmp_path / "model.onnx")]) == 0
    (tmp_path / "in.csv").write_text("smiles\nCCO\nbad\nc1ccccc1\n")
    (tmp_path / "light.py").write_text(f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {NOT_LIGHT!r}:
            raise ModuleNotFoundError(f'absent: {{name}}', name=name)
sys.meta_path.insert(0, Absent())
from moleblend_fs import Embedder, Predictor
from moleblend_fs.cli.main import main
if __name__ == "__main__":
    assert main(['predict', 'model.onnx', 'in.csv', 'out.csv', '--workers', '1', '--no-progress', '--hydrogens', 'none']) == 0
    assert main(['embed', 'model.onnx', 'in.csv', 'out.npy', '--workers', '1', '--hydrogens', 'none']) == 0
    with Predictor('model.onnx', hydrogens='none') as predictor, Embedder('model.onnx', hydrogens='none') as embedder:
        print(predictor.predict('CCO').values[0, 0], embedder(['CCO']).shape)
    print(main(['predict', 'run', 'in.csv', 'other.csv']), main(['evaluate', 'run', 'store', '--split', 'test']), main(['doctor']))
""")
    done = subprocess.run([sys.executable, "light.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["status"].split(":")[0] for row in rows] == ["ok", "no molecule", "ok"]
    first = float(done.stdout.splitlines()[-2].split()[0])
    assert first == pytest.approx(float(rows[0]["y"]), rel=1e-6)
    with Predictor(folder, hydrogens="none", tell=lambda line: None) as predictor:
        assert first == pytest.approx(predictor.predict("CCO").values[0, 0], abs=1e-5)
    assert done.stdout.splitlines()[-2].endswith("(1, 64)")
    assert done.stdout.splitlines()[-1] == "2 2 2"
    assert "checkpoints need torch, which is not installed: pip install 'moleblend-fs[train]'" in done.stderr
    assert "moleblend evaluate: needs the package torch" in done.stderr


def test_the_table_names_every_room():
    rooms = {f"moleblend_fs/{path.parent.name}" for path in (ROOT / "moleblend_fs").glob("*/__init__.py")} | {"fairseq_plugins"}
    assert set(ROOMS) == rooms


@pytest.mark.parametrize("folder", ROOMS)
def test_imports_are_those_of_the_table(folder):
    own = Path(folder).name
    ours = {Path(room).name for room in ROOMS}
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, name in imported(path):
            if name in (ours | WATCHED) - ROOMS[folder] - FOR_ALL - {own}:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong


def test_nothing_else_knows_an_objective_by_name():
    """Neither imports its module nor has its name as a text; single words ("distance") stand for other things, too."""
    modules = {found.__module__ for found in objectives().values()}
    names = {name for found in objectives().values() for name in (found.name, *found.aliases) if "_" in name}
    wrong = []
    for folder in ("moleblend_fs", "fairseq_plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())) if path.parent.name != "objectives" else ():
                if isinstance(node, ast.ImportFrom) and node.module in modules:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}")
                if isinstance(node, ast.Constant) and node.value in names:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}")
    assert not wrong


def test_the_table_allows_nothing_that_is_not_used():
    """Else walls would stand open for good."""
    for folder, allowed in ROOMS.items():
        used = {name for path in (ROOT / folder).rglob("*.py") for _, name in imported(path)}
        assert allowed <= used, f"{folder} does not import {', '.join(sorted(allowed - used))}"


def test_files_that_an_update_crosses_exist():
    """Given from the repository's root, or from within one of the two packages."""
    text = (ROOT / "docs" / "architecture.md").read_text().split("## The way of an update")[1].split("## Boundaries")[0]
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert {"trainer.py", "patches/fused_adam.py", "runtime/watchdog.py"} <= named
    missing = [name for name in named if not any((ROOT / base / name).is_file() for base in (".", "moleblend_fs", "fairseq_plugins"))]
    assert not missing


def test_rooms_make_no_circle():
    ours = {Path(room).name: set(allowed) for room, allowed in ROOMS.items()}
    waiting, done = dict(ours), set()
    while free := [room for room, allowed in waiting.items() if allowed & set(ours) <= done]:
        done |= set(free)
        waiting = {room: allowed for room, allowed in waiting.items() if room not in free}
    assert not waiting, f"in a circle: {', '.join(waiting)}"


def test_a_clone_in_the_folder_of_the_call_does_not_hide_the_package(tmp_path):
    """Its folder has the package's name and no `__init__.py`; Python looks into the folder of the call first."""
    for name in ("moleblend_fs", "fairseq_plugins"):
        (tmp_path / "a folder" / name / "docs").mkdir(parents=True)
    script = (
        "from importlib.util import find_spec; print(*(find_spec(name).origin for name in ('moleblend_fs', 'fairseq_plugins')), sep='\\n')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "a folder", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [moleblend_fs.__file__, fairseq_plugins.__file__]
