"""Threads of OpenMP that wait are told to sleep, unless a user says otherwise."""

import os
import subprocess
import sys

import pytest

from moleblend_fs.cli.main import main
from tests.docs.blocks import ROOT

pytestmark = pytest.mark.cold

VARIABLE = "OMP_WAIT_POLICY"


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_the_command_sets_what_is_not_set(monkeypatch, capsys, given, expected):
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back afterwards
    monkeypatch.delenv(VARIABLE) if given is None else monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ[VARIABLE] == expected


def test_torch_is_not_loaded_before():
    """OpenMP reads the variable once."""
    code = "import sys, moleblend_fs.cli.main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_the_launcher_passes_it_on(tmp_path, given, expected):
    """A `moleblend` of the test tells what it was given."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "moleblend"
    fake.write_text(f'#!/bin/sh\necho "{VARIABLE} is ${VARIABLE}"\n')
    fake.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"VENV": str(tmp_path), "LAUNCHER": "srun", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    environment |= {} if given is None else {VARIABLE: given}
    done = subprocess.run([ROOT / "scripts/launch.sh", "store"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert f"{VARIABLE} is {expected}" in done.stdout, done
