"""Conformers are made once for a molecule and options: what is taken is what would be made, and a damaged cache costs nothing."""

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.chem import conformer_cache
from moleblend_fs.chem.conformer_cache import FILE, embed_once
from moleblend_fs.chem.conformers import ConformerOptions, embed

TWO = ConformerOptions(count=2, timeout=3000)
"""With so much time that a busy machine's results are kept, too."""
IMPOSSIBLE = "C[C@]12C[C@@]1(C)C2"
"""A bridge on opposite faces: that there is no structure is kept, too."""


def full(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """SMILES whose conformers were made, not taken; and each test opens its file anew."""
    calls: list[str] = []

    def counted(mol, smiles, options):
        calls.append(smiles)
        return embed(mol, smiles, options)

    monkeypatch.setattr(conformer_cache, "embed", counted)
    conformer_cache._opened.cache_clear()
    return calls


def once(smiles: str, folder: Path | None, options: ConformerOptions = TWO):
    return embed_once(full(smiles), smiles, options, folder)


def same(one, two) -> bool:
    if isinstance(one, str) or isinstance(two, str):
        return one == two
    return (
        one.converged == two.converged
        and one.coordinates.dtype == two.coordinates.dtype
        and np.array_equal(*(x.coordinates for x in (one, two)))
    )


@pytest.mark.parametrize("smiles", ["CCO", "[Na+].[Cl-]", "C[Si](C)(C)C", IMPOSSIBLE])
def test_what_is_taken_is_what_would_be_made(made, tmp_path, smiles):
    expected = embed(full(smiles), smiles, TWO)
    assert isinstance(expected, str) == (smiles == IMPOSSIBLE)
    assert same(once(smiles, tmp_path / "deep" / "cache"), expected)
    conformer_cache._opened.cache_clear()
    assert same(once(smiles, tmp_path / "deep" / "cache"), expected)
    assert made == [smiles], "the second time it was there"
    assert same(once(smiles, None), expected)


def test_other_options_and_other_spellings_are_others(made, tmp_path):
    for options in (TWO, *(replace(TWO, **other) for other in ({"count": 1}, {"seed": 1}, {"steps": 0}))):
        assert same(once("CCO", tmp_path, options), embed(full("CCO"), "CCO", options))
    assert same(once("OCC", tmp_path), embed(full("OCC"), "OCC", TWO))
    assert made == ["CCO"] * 4 + ["OCC"], "the spelling seeds the embedding, and gives the order of the atoms"


def test_what_a_time_limit_may_have_shaped_is_not_kept(made, tmp_path, monkeypatch):
    monkeypatch.setattr(conformer_cache, "UNHURRIED", 0.0)
    for _ in range(2):
        once("CCO", tmp_path)
    assert made == ["CCO", "CCO"]


def change(folder: Path, what: str) -> None:
    with sqlite3.connect(folder / FILE) as file:
        file.execute(f"UPDATE made SET {what}")


@pytest.mark.parametrize("what", ["coordinates = x'0102'", "coordinates = zeroblob(length(coordinates))", "converged = 7", "reason = NULL"])
def test_a_damaged_entry_is_made_again(made, tmp_path, what):
    expected = once("CCO", tmp_path)
    change(tmp_path, what)
    assert same(once("CCO", tmp_path), expected)
    assert same(once("CCO", tmp_path), expected)
    assert made == ["CCO", "CCO"], "and kept again"


def test_a_file_that_is_damaged_or_something_else_begins_anew(made, tmp_path):
    (tmp_path / FILE).write_bytes(b"no database " * 1000)
    expected = once("CCO", tmp_path)
    assert same(once("CCO", tmp_path), expected)
    assert made == ["CCO"]


def test_a_place_that_cannot_be_used_keeps_nothing_from_being_made(made, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "folder"):
        assert same(once("CCO", folder), embed(full("CCO"), "CCO", TWO))
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_file_that_is_locked_keeps_nothing_from_being_made(made, tmp_path, monkeypatch):
    monkeypatch.setattr(conformer_cache, "PATIENCE", 0.01)
    expected = once("CCO", tmp_path)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert same(once("CCO", tmp_path), expected)
    assert same(once("CCN", tmp_path), embed(full("CCN"), "CCN", TWO))
    other.execute("ROLLBACK")
    assert made == ["CCO", "CCO", "CCN"]


def test_the_older_half_goes_where_it_becomes_too_large(made, tmp_path, monkeypatch):
    monkeypatch.setattr(conformer_cache, "ENTRIES_BETWEEN_LOOKS", 4)
    chains = ["C" * n for n in range(2, 8)]
    for smiles in chains[:4]:
        once(smiles, tmp_path)
    monkeypatch.setattr(conformer_cache, "LIMIT", 1)
    for smiles in chains[4:]:
        once(smiles, tmp_path)
    del made[:]
    change(tmp_path, "reason = reason")
    with sqlite3.connect(tmp_path / FILE) as file:
        assert file.execute("SELECT count(*) FROM made").fetchone()[0] == 6, "within the limit when it was looked at"
    once("C" * 8, tmp_path)
    once("C" * 9, tmp_path)
    with sqlite3.connect(tmp_path / FILE) as file:
        assert file.execute("SELECT count(*) FROM made").fetchone()[0] == 4
    for smiles in ("C" * 9, "C" * 6, "C" * 2):
        once(smiles, tmp_path)
    assert made == ["C" * 8, "C" * 9, "C" * 2]


def test_processes_share_it(made, tmp_path):
    children = []
    for number in range(3):
        if (child := os.fork()) == 0:
            for text in ("CCO", "CCN", f"{'C' * (3 + number)}O"):
                once(text, tmp_path)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    for text in ("CCO", "CCN", "CCCO", "CCCCO", "CCCCCO"):
        assert same(once(text, tmp_path), embed(full(text), text, TWO))
    assert made == []
