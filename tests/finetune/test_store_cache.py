"""Molecules that an earlier run made are taken, not made again, and nothing of a run tells which it was; files are known by content."""

import filecmp
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest
import torch
from rdkit import rdBase

from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.unfinished_output import LeftBehind, why_begin_anew
from moleblend_fs.errors import UserError
from moleblend_fs.finetune import member_processes, members, store_cache
from moleblend_fs.finetune.data import opened, prepare
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import begin, finetune
from moleblend_fs.finetune.run_folder import Asked, claim
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.finetune.store_cache import cache_folder, obtain_store
from moleblend_fs.sources.csv_and_smiles import CsvSource
from moleblend_fs.sources.run import preprocess
from tests.finetune.conftest import ESOL, QUICK
from tests.sources.table_files import frame_file
from tests.support.waiting import until

SETTINGS = Settings(targets=("y",))
TEXT = "smiles;y\n" + "".join(f"{'C' * n}O;{n},5\n" for n in range(1, 6)) + "c1ccccc;1,0\nCCN;soluble\n"
"""Semicolons and decimal commas, which make notes, and two rows that give no molecule."""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(store_cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch) -> Counter:
    """How many rows of tables were read to make molecules of them."""
    counts, rows = Counter(), CsvSource.rows

    def counted(self, start):
        for row in rows(self, start):
            counts["rows"] += 1
            yield row

    monkeypatch.setattr(CsvSource, "rows", counted)
    return counts


def made(path: Path, out: Path, cache: Path | None, settings: Settings = SETTINGS):
    out.mkdir()
    return prepare(path, settings, out, "none", workers=1, progress=False, cache=cache)


def same_files(one: Path, two: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in two.iterdir()) and filecmp.cmpfiles(one, two, names, shallow=False)[0] == names


def entries(cache: Path) -> list[Path]:
    return [path for path in (cache / "stores").iterdir() if path.is_dir()]


def test_a_second_run_reads_no_row_and_has_the_same_store(cache, read, tmp_path):
    (tmp_path / "mine.csv").write_text(TEXT)
    first = made(tmp_path / "mine.csv", tmp_path / "first", cache)
    assert read["rows"] == 7
    (tmp_path / "elsewhere").mkdir()
    other = shutil.copy(tmp_path / "mine.csv", tmp_path / "elsewhere" / "other.csv")
    second = made(other, tmp_path / "second", cache)
    assert read["rows"] == 7
    alone = made(other, tmp_path / "alone", None)
    assert read["rows"] == 14
    assert same_files(second.store.path, alone.store.path)
    assert list(second.store.manifest.inputs) == ["other.csv"]
    assert [line.row for line in second.store.failures()] == [5, 6]
    assert second.notes[:-1] == alone.notes
    assert first.notes == tuple(note.replace(str(other), str(tmp_path / "mine.csv")) for note in alone.notes)
    assert "an earlier run" in second.notes[-1]


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (lambda text: text.replace("CCO;2,5", "CCO;2,6"), SETTINGS),
        (str, Settings(targets=("y",), inputs="3d")),
        (str, Settings(targets=("y",), max_atoms=4)),
    ],
)
def test_what_makes_another_store_is_made(cache, read, tmp_path, change, settings):
    (tmp_path / "mine.csv").write_text(TEXT)
    (tmp_path / "other.csv").write_text(change(TEXT))
    made(tmp_path / "mine.csv", tmp_path / "first", cache)
    made(tmp_path / "other.csv", tmp_path / "second", cache, settings)
    assert read["rows"] == 14
    assert len(entries(cache)) == 2


def test_a_workbook_of_another_name(cache, read, tmp_path):
    """What is read is a copy in the run's folder."""
    path = frame_file(tmp_path / "a.parquet", ["smiles", "y"], [("C" * n, n / 2) for n in range(1, 5)])
    made(path, tmp_path / "first", cache)
    second = made(shutil.copy(path, tmp_path / "b.parquet"), tmp_path / "second", cache)
    assert read["rows"] == 4
    assert second.table == tmp_path / "second" / "data.csv"


def test_a_damaged_entry_is_made_anew(cache, read, tmp_path):
    (tmp_path / "mine.csv").write_text(TEXT)
    first = made(tmp_path / "mine.csv", tmp_path / "first", cache).store
    (entry,) = entries(cache)
    content = bytearray((entry / "records.lmdb").read_bytes())
    content[content.index(first.record(3)) + 20] ^= 255
    (entry / "records.lmdb").unlink()  # it is the first run's file as well
    (entry / "records.lmdb").write_bytes(content)
    second = made(tmp_path / "mine.csv", tmp_path / "second", cache)
    assert read["rows"] == 14
    assert same_files(second.store.path, first.path)
    assert made(tmp_path / "mine.csv", tmp_path / "third", cache).store.manifest == second.store.manifest
    assert read["rows"] == 14


def test_a_cache_that_cannot_be_written_is_told_and_done_without(read, tmp_path):
    (tmp_path / "mine.csv").write_text(TEXT)
    (tmp_path / "file").write_text("")
    found = made(tmp_path / "mine.csv", tmp_path / "run", tmp_path / "file")
    assert len(found.store) == 5
    assert "not kept for other runs" in found.notes[-1]


def test_of_two_commands_at_a_time_one_makes_the_molecules(cache, read, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text(TEXT)
    source, _, _ = opened(tmp_path / "mine.csv", SETTINGS, tmp_path / "first", "none")
    said: list[str] = []

    def must_not() -> None:
        raise AssertionError("made twice")

    second = Thread(target=lambda: said.append(obtain_store(source, tmp_path / "second", must_not, folder=cache)))

    def make() -> None:
        second.start()
        heard = ""

        def waits() -> bool:
            nonlocal heard
            heard += capsys.readouterr().err
            return "waiting for another command" in heard

        until(waits, runs=second.is_alive)
        preprocess(source, tmp_path / "first", workers=1, progress=False)

    assert obtain_store(source, tmp_path / "first", make, folder=cache) == ""
    second.join()
    assert "an earlier run" in said[0]
    assert same_files(tmp_path / "first", tmp_path / "second")


def test_what_only_the_cache_holds_is_limited(cache, tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.csv").write_text(TEXT + f"CC{'N' * i};1,0\n")
        made(tmp_path / f"{i}.csv", tmp_path / f"run{i}", cache)
        known = set(map(str, entries(cache)))
        assert len(known) == i + 1, "runs have these files too"
    first = made(tmp_path / "0.csv", tmp_path / "again", cache)
    shutil.rmtree(tmp_path / "run1")
    shutil.rmtree(tmp_path / "run2")
    monkeypatch.setattr(store_cache, "LIMIT", 1)
    (tmp_path / "3.csv").write_text(TEXT)
    made(tmp_path / "3.csv", tmp_path / "run3", cache)
    assert len(entries(cache)) == 2
    assert len(first.store.records([0])) == 1


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.delenv(store_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "moleblend_fs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "moleblend_fs"
    monkeypatch.setenv(store_cache.VARIABLE, "~/here")
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv(store_cache.VARIABLE, "~no-such-user/here")
    assert cache_folder() == Path("~no-such-user/here")
    monkeypatch.setenv(store_cache.VARIABLE, "off")
    assert cache_folder() is None


def test_a_run_from_the_cache_is_the_run_without_and_goes_on_under_another_name(finetuned, table, cache, tmp_path, capsys):
    """All numbers, and the members' weights; `finetuned` knew of no cache."""
    settings = Settings(**QUICK | {"ensemble": 2}, targets=("logS",), split="random")
    prepare(table, settings, tmp_path, "none", workers=1, progress=False, cache=cache)
    moved, out = shutil.copy(table, tmp_path / "moved.csv"), tmp_path / "run"
    found = finetune(moved, out, settings)
    assert "an earlier run" in found.notes[-1]
    assert found.metrics == finetuned.metrics
    for name in ("predictions_oof.csv", "predictions_test.csv", "calibration.json", "training_molecules.csv"):
        assert (out / name).read_bytes() == (finetuned.out / name).read_bytes(), name
    for one in sorted(out.glob("members/*/checkpoint_best.pt")):
        weights = [load(path).weights for path in (one, finetuned.out / one.relative_to(out))]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    before = {path: path.stat().st_mtime_ns for path in out.glob("members/*/*.pt")}
    os.rename(moved, tmp_path / "renamed.csv")
    assert finetune(tmp_path / "renamed.csv", out, settings).metrics == found.metrics
    assert {path: path.stat().st_mtime_ns for path in out.glob("members/*/*.pt")} == before
    (tmp_path / "renamed.csv").write_text(table.read_text().replace("CCO,1.1", "CCO,1.2"))
    with pytest.raises(UserError, match="data: another file"):
        finetune(tmp_path / "renamed.csv", out, settings)


def test_files_that_a_run_was_asked_for_may_be_moved(tmp_path):
    """Table, weights and file of splits; those of other content are another run's."""
    for name in ("table.csv", "weights.pt", "splits.json"):
        (tmp_path / name).write_text(name)
        shutil.copy(tmp_path / name, tmp_path / f"moved-{name}")
        (tmp_path / f"other-{name}").write_text("other")

    def asked(table: str, weights: str, splits: str) -> None:
        settings = Settings(targets=("y",), weights=str(tmp_path / weights), split="file", split_file=str(tmp_path / splits))
        claim(tmp_path / table, tmp_path / "run", settings, Asked())

    asked("table.csv", "weights.pt", "splits.json")
    (tmp_path / "run" / "members").mkdir()
    asked("moved-table.csv", "moved-weights.pt", "moved-splits.json")
    for number, name in enumerate(("data", "weights", "split file")):
        names = ["table.csv", "weights.pt", "splits.json"]
        names[number] = f"other-{names[number]}"
        with pytest.raises(UserError, match=rf"\({name}: another file\)"):
            asked(*names)


def test_a_member_is_finished_wherever_its_store_and_weights_lie(tmp_path):
    def member(store: str, weights: str, lr: str = "1e-3") -> members.Member:
        words = (store, "--split-file", "splits.json", "--finetune-from-model", weights, "--lr", lr)
        return members.Member(name="m", folder="members/m", fold="fold0", seed=0, words=words, updates=1)

    (tmp_path / "members" / "m").mkdir(parents=True)
    (tmp_path / "members" / "m" / members.CHECKPOINT).write_text("")
    member_processes.check_end(tmp_path, member("/a/store", "/a/weights.pt"), 0)
    assert member_processes.finished(tmp_path, member("/b/store", "/b/weights.pt"))
    assert not member_processes.finished(tmp_path, member("/a/store", "/a/weights.pt", "2e-3"))


def test_a_half_made_store_goes_on_where_its_table_was_renamed(tmp_path):
    def asked(**inputs: str) -> dict:
        return {"source": "csv", "inputs": inputs}

    left = LeftBehind(tmp_path, json.dumps(asked(**{"a.csv": "sha256:1"})).encode(), molecules=9, seconds=9000)
    assert why_begin_anew(left, asked(**{"b.csv": "sha256:1"})) is None
    with pytest.raises(UserError, match=r"b\.csv changed"):
        why_begin_anew(left, asked(**{"b.csv": "sha256:2"}))
    large = LeftBehind(tmp_path, json.dumps(asked(**{"a.csv": "bytes:1"})).encode(), molecules=9, seconds=9000)
    with pytest.raises(UserError, match="changed since"):
        why_begin_anew(large, asked(**{"b.csv": "bytes:1"}))


def test_what_rdkit_says_of_molecules_that_an_earlier_run_made_stays_off_the_terminal(cache, tmp_path, capfd):
    """No process of ours that makes molecules has switched it off before."""
    (tmp_path / "mine.csv").write_text(f"smiles,logS\n[H+].[Cl-].CCN,1.5\n{ESOL}")
    settings = Settings(targets=("logS:regression",), split="random", weights="none")
    for name in ("first", "second"):
        rdBase.EnableLog("rdApp.*")
        begun = begin(tmp_path / "mine.csv", tmp_path / name, settings, jobs=1, progress=Progress(quiet=True))
        assert len(begun.data.store) == 25
    assert len(entries(cache)) == 1
    assert capfd.readouterr().err == ""
