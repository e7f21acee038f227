"""Pages' commands and programs train members that are forked."""

import pytest

from tests.support.forked_members import forked_members


@pytest.fixture(autouse=True)
def quick_members():
    """Members of runs in this process are forked; those of commands that are run as programs are real."""
    with forked_members():
        yield
