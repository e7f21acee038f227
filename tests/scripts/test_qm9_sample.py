"""The shipped sample is what its DATA.md says, and the script that drew it draws it again."""

import csv
import importlib.util
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples" / "quickstart" / "qm9_sample.csv.xz"


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    with lzma.open(SAMPLE, "rt", newline="") as stream:
        return list(csv.DictReader(stream))


def test_sample_has_the_promised_size_and_columns(table):
    assert SAMPLE.stat().st_size <= 1_500_000
    assert len(table) == 4000
    assert len({row["Index"] for row in table}) == 4000
    assert list(table[0])[:4] == ["Index", "SMILES", "Elements", "XYZ_Ang"]


def test_gap_is_lumo_minus_homo_in_every_row(table):
    """A column shifted or rounded by mistake would show here; QM9 gives four digits, so the difference may be off by 1e-4."""
    homo, lumo, gap = (np.array([float(row[name]) for row in table]) for name in ("HOMO_au", "LUMO_au", "HOMO_LUMO_gap_au"))
    np.testing.assert_allclose(lumo - homo, gap, atol=1.01e-4)
    assert np.abs(lumo - homo - np.roll(gap, 1)).mean() > 1e-2


def test_script_draws_the_shipped_sample_again(tmp_path, monkeypatch):
    if importlib.util.find_spec("qm9pack") is None:
        pytest.skip("qm9pack is not installed (pip install -c constraints.txt qm9pack)")
    spec = importlib.util.spec_from_file_location("make_qm9_sample", ROOT / "scripts" / "make_qm9_sample.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    output = tmp_path / "sample.csv.xz"
    monkeypatch.setattr(sys, "argv", ["make_qm9_sample.py", "--output", str(output)])
    script.main()
    assert lzma.decompress(output.read_bytes()) == lzma.decompress(SAMPLE.read_bytes())
