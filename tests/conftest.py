"""Fixtures that several tests use."""

import gc
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from moleblend_fs.data.store import Store
from tests.support import forked_ranks, interpreter, warm_likeness

gc.disable()  # until all tests are imported, a third of whose time went into looking for garbage among what stays
os.environ["MOLEBLEND_CACHE"] = "off"  # tests leave nothing among the user's caches, and find nothing there

if not torch.cuda.is_available() and find_spec("triton") is not None:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: it is read when kernels are defined
    interpreter.hasten()

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: several processes, which take a file each, then end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """From here on garbage is looked for, but not among what has been imported: 700,000 objects, each time half a second."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def warm_starts() -> Iterator[str]:
    """Our commands, where tests start them as programs, begin warm, in a process that has imported what they need (`warm_server`)."""
    if sys.platform != "linux" or warm_likeness.VARIABLE in os.environ:  # of the test that runs these tests
        yield os.environ.get(warm_likeness.VARIABLE, "")
        return
    with tempfile.TemporaryDirectory(prefix="warm") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(warm_likeness.FOLDER), prepend=os.pathsep)
        patch.setenv(warm_likeness.VARIABLE, f"{folder}/s")
        forked_ranks.begin_server()
        yield f"{folder}/s"


@pytest.fixture(autouse=True)
def cold_starts(request, monkeypatch) -> None:
    """Tests that are marked so start programs as users do; so do those with other hosts."""
    if request.node.get_closest_marker("cold") or request.node.get_closest_marker("cluster"):
        monkeypatch.delenv(warm_likeness.VARIABLE, raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the golden files and the real data sets: $MOLEBLEND_SHARED, or ../shared beside the repository."""
    path = Path(os.environ.get("MOLEBLEND_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; set MOLEBLEND_SHARED")
    return path


@pytest.fixture(scope="session")
def qm9_sample() -> Path:
    """About 4,000 molecules of QM9, shipped with the repository."""
    path = ROOT / "examples" / "quickstart" / "qm9_sample.csv.xz"
    assert path.is_file()
    return path


def preprocessed(path: Path, *arguments: str) -> Store:
    """A store made by `moleblend preprocess SOURCE IN path ...`."""
    from moleblend_fs.cli.main import main

    source, given, *rest = arguments
    assert main(["preprocess", source, given, str(path), "--workers", "1", "--no-progress", *rest]) == 0
    return Store(path)


@pytest.fixture(scope="session")
def qm9_store(qm9_sample, tmp_path_factory) -> Store:
    """140 molecules of QM9 with structures and 12 labels: 118 train, 11 valid, 11 test."""
    return preprocessed(tmp_path_factory.mktemp("stores") / "qm9", "qm9", str(qm9_sample), "--limit", "140")


@pytest.fixture(scope="session")
def tox21_store(shared, tmp_path_factory) -> Store:
    """Tox21's first 120 molecules: 2D, 12 tasks with missing labels, scaffold split."""
    source = str(shared / "data" / "moleculenet" / "tox21.csv.gz")
    return preprocessed(tmp_path_factory.mktemp("stores") / "tox21", "moleculenet", source, "--limit", "120")
