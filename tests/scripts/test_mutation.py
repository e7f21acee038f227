"""What `scripts/mutation.py` is to change and to run is there."""

import importlib.util
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PATH = ROOT / "scripts" / "mutation.py"


def rooms() -> dict[str, tuple[list[str], list[str]]]:
    spec = importlib.util.spec_from_file_location("mutation", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ROOMS


@pytest.mark.parametrize("room", rooms())
def test_files_and_tests_exist(room):
    files, tests = rooms()[room]
    for pattern in files:
        assert list(ROOT.glob(pattern)), pattern
    for name in tests:
        assert name.startswith("--") or (ROOT / name).exists(), name


def test_a_room_that_there_is_not_is_told():
    done = subprocess.run([sys.executable, PATH, "attic"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'attic'" in done.stderr
