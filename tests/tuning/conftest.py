"""Searches whose trials cost little."""

import pytest

from tests.support.forked_members import forked_members


@pytest.fixture(scope="session", autouse=True)
def quick_members():
    """Members and trials of searches in this process are forked; those of commands that tests start are real."""
    with forked_members():
        yield
