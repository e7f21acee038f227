"""Drawing needs a library of X; whatever draws nothing does without."""

import subprocess
import sys

import pytest

from moleblend_fs.chem.depict import rdkit_drawing
from moleblend_fs.errors import UserError


def test_where_rdkit_cannot_draw_the_reason_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit.Chem.Draw", None)
    with pytest.raises(UserError, match=r"cannot draw molecules here.*apt-get install"):
        rdkit_drawing()


def test_preprocessing_draws_nothing():
    code = "import sys; sys.modules['rdkit.Chem.Draw'] = None; from moleblend_fs.sources.registry import source_commands; source_commands()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
