"""Programs import without looking for garbage, and look for it afterwards."""

import gc

import pytest

from moleblend_fs.cli.standard_output import import_for_good

MANY = "held = [[] for _ in range(100_000)]\n"
"""Objects for which garbage would be looked for a hundred times."""


@pytest.fixture
def searches():
    """Generations that were searched."""
    found = []

    def note(phase, about):
        if phase == "start":
            found.append(about["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


def test_garbage_is_looked_for_only_afterwards_and_elsewhere(tmp_path, monkeypatch, searches):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_module_of_many.py").write_text(MANY)
    before = gc.get_freeze_count()
    gc.collect()
    searches.clear()  # objects of this test and of those before may have been enough for a search of their own
    module = import_for_good("a_module_of_many")
    assert searches == []
    assert gc.isenabled()
    assert (frozen := gc.get_freeze_count()) > before + 100_000
    exec(MANY, others := {})
    assert import_for_good("a_module_of_many") is module
    assert gc.get_freeze_count() <= frozen, "what was imported before leaves other objects as they are"
    others.clear()
    assert searches != []


def test_after_an_import_that_failed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_module_that_fails.py").write_text("raise ImportError('a library')")
    with pytest.raises(ImportError, match="a library"):
        import_for_good("a_module_that_fails")
    assert gc.isenabled()
