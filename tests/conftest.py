"""Fixtures that several tests use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
