"""The wheel and the source distribution: what is in them, and a prediction from the installed wheel."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from moleblend_fs import Predictor
from moleblend_fs.cli.main import main
from tests.conftest import ROOT
from tests.predictions.run_folders import run_folder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*does not say what it was trained on")]
LIGHT = ("numpy", "onnxruntime", "rdkit")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with both, made of the tracked files, the wheel from the source distribution."""
    pytest.importorskip("build", reason="needs build (pip install build)")
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: which files belong to the distribution is not known")
    folder = tmp_path_factory.mktemp("distribution")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder / "made"), str(folder / "tree")], capture_output=True, text=True, cwd=folder
    )
    if "No matching distribution found for setuptools" in done.stdout + done.stderr:
        pytest.skip("the build needs setuptools from a package index")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "made"


def test_both_hold_all_of_the_packages(built):
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    with tarfile.open(source) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    modules = {str(path.relative_to(ROOT)) for room in ("moleblend_fs", "fairseq_plugins") for path in (ROOT / room).rglob("*.py")}
    assert modules <= names
    assert modules | {"moleblend_fs/chem/_paths.c", "LICENSE", "constraints.txt", "scripts/test.sh", "tests/conftest.py"} <= sources
    weights = {str(path.relative_to(ROOT)) for path in (ROOT / "moleblend_fs" / "weights").glob("*/*")}
    assert weights <= names
    assert weights <= sources
    assert any(name.startswith("moleblend_fs/chem/_paths.") and name.endswith(".so") for name in names)
    required = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    light = {line.partition(">=")[0] for line in required if "extra ==" not in line or 'extra == "onnx"' in line}
    assert light == set(LIGHT)
    assert any(line.startswith("torch>=") and 'extra == "train"' in line for line in required)


def test_the_installed_wheel_predicts(built, tmp_path):
    pytest.importorskip("onnx", reason="the export needs onnx (pip install 'moleblend-fs[export]')")
    (wheel,) = built.glob("*.whl")
    folder = run_folder(tmp_path / "run")
    assert main(["export", str(folder), str(tmp_path / "model.onnx")]) == 0
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    script = "import sys; sys.path.insert(0, 'site'); import moleblend_fs.chem._paths as p; assert p.__file__.startswith(sys.argv[1])\n"
    script += "from moleblend_fs.cli.main import main; sys.exit(main(['predict', 'model.onnx', '--smiles', 'CCO', 'bad']))"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "site")], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Predictor(folder, hydrogens="none", tell=lambda line: None) as predictor:
        expected = predictor.predict("CCO").values[0, 0]
    assert float(done.stdout.splitlines()[1].split(",")[1]) == pytest.approx(expected, abs=1e-5)
    assert "no molecule" in done.stdout.splitlines()[2]


def test_cibuildwheel_builds_for_the_pythons_that_are_supported():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert config["build"] == ["cp311-*", "cp312-*"]
    assert 'python_requires=">=3.11,<3.13"' in (ROOT / "setup.py").read_text()
