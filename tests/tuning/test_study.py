"""Trials of a study: each is run once, whoever asks and however processes end; what is drawn does not depend on that."""

import multiprocessing
import os
import signal

import pytest

pytest.importorskip("optuna", reason="the search needs optuna (pip install 'moleblend-fs[tune]')")

from moleblend_fs.errors import UserError
from moleblend_fs.locks import taken
from moleblend_fs.tuning.space import parse_dimension
from moleblend_fs.tuning.study import JOURNAL, Study, tried_in

SPACE = [parse_dimension(text) for text in ("lr=1e-5..1e-2", "epochs=2,4,8", "batch-size=1..512")]
FORK = multiprocessing.get_context("fork")


def opened(folder, **changed) -> Study:
    return Study(folder, SPACE, **{"maximise": False, "seed": 3, "pruning": True} | changed)


def score(settings) -> float:
    return settings["lr"] * settings["epochs"]


def work(folder, trials, ended) -> None:
    study = opened(folder)
    while (claimed := study.claim(trials)) is not None:
        study.report(claimed, 1, score(claimed.settings))
        study.complete(claimed, score(claimed.settings))
        ended.put(claimed.number)


def test_two_processes_share_the_trials(tmp_path):
    ended = FORK.Queue()
    processes = [FORK.Process(target=work, args=(tmp_path, 12, ended)) for _ in range(2)]
    for process in processes:
        process.start()
    numbers = [ended.get(timeout=120) for _ in range(12)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(numbers) == list(range(12))
    tried = opened(tmp_path).tried()
    assert [(each.number, each.state) for each in tried] == [(i, "complete") for i in range(12)]
    assert all(each.score == score(each.settings) for each in tried)
    assert opened(tmp_path).best().score == min(each.score for each in tried)
    assert opened(tmp_path).claim(12) is None
    assert opened(tmp_path, maximise=False).claim(13).number == 12, "more trials go on with the same study"


def test_a_trial_that_ends_while_another_process_looks_is_not_run_again(tmp_path, monkeypatch):
    """Between the reading of its state and the look at its lock."""
    first, second = opened(tmp_path), opened(tmp_path)
    claimed = first.claim(9)

    def ends_meanwhile(path):
        if tried_in(tmp_path)[0].state == "running":
            first.complete(claimed, 0.1)
        return taken(path)

    monkeypatch.setattr("moleblend_fs.tuning.study.taken", ends_meanwhile)
    other = second.claim(9)
    assert other.number == 1
    second.report(other, 1, 0.5)
    assert [each.state for each in opened(tmp_path).tried()] == ["complete", "running"]


def hold(folder, told) -> None:
    study = opened(folder)
    claimed = study.claim(9)
    study.report(claimed, 1, 0.5)
    told.put((claimed.number, claimed.settings))
    signal.pause()


def test_a_killed_process_leaves_its_trial_to_the_next(tmp_path):
    """With the same settings and what was reported; while it lives, nobody else gets it."""
    told = FORK.Queue()
    process = FORK.Process(target=hold, args=(tmp_path, told))
    process.start()
    number, settings = told.get(timeout=120)
    study = opened(tmp_path)
    other = study.claim(9)
    assert (number, other.number) == (0, 1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    again = study.claim(9)
    assert (again.number, again.settings, again.last_step) == (0, settings, 1)
    assert study.claim(2) is None, "both are this process's, and running"
    study.complete(again, 0.1)
    study.fail(other, "why")
    assert [(each.state, each.reason) for each in study.tried()] == [("complete", ""), ("failed", "why")]
    assert study.tried()[0].steps == {1: 0.5}


def test_draws_do_not_depend_on_how_often_a_search_was_stopped(tmp_path):
    found = []
    for name, sessions in (("once", [6]), ("stopped", [1, 2, 6])):
        (tmp_path / name).mkdir()
        for trials in sessions:
            study = opened(tmp_path / name)
            while (claimed := study.claim(trials)) is not None:
                study.complete(claimed, score(claimed.settings))
        found.append([each.settings for each in opened(tmp_path / name).tried()])
    assert found[0] == found[1]
    assert len({each["lr"] for each in found[0]}) == 6
    (tmp_path / "other").mkdir()
    assert opened(tmp_path / "other", seed=4).claim(1).settings != found[0][0]


@pytest.mark.parametrize("maximise", [True, False])
def test_only_what_is_worse_than_the_median_is_hopeless(tmp_path, maximise):
    study = opened(tmp_path, maximise=maximise)
    for value in (0.1, 0.2, 0.3, 0.4):
        claimed = study.claim(9)
        for step in (1, 2, 3):
            study.report(claimed, step, value)
            assert not study.hopeless(claimed), "the first ones are never"
        study.complete(claimed, value)
    high, low = study.claim(9), study.claim(9)
    for step in (1, 2):
        study.report(high, step, 0.9)
        study.report(low, step, 0.05)
        assert study.hopeless(low if maximise else high) == (step == 2), "not before a fifth"
        assert not study.hopeless(high if maximise else low)
    assert not opened(tmp_path, maximise=maximise, pruning=False).hopeless(low)
    study.prune(low)
    assert study.tried()[low.number].score == 0.05
    assert study.best().score == (0.4 if maximise else 0.1)


@pytest.mark.parametrize("content", [b"\0\xff" * 200, b"[1]\n", b'{"op_code": 99}\n', b'{"op_code": 4}\n', b"nonsense\n{}\n"])
def test_a_damaged_journal_is_told(tmp_path, content):
    (tmp_path / JOURNAL).write_bytes(content)
    for read in (opened, tried_in):
        with pytest.raises(UserError, match=r"study\.journal: damaged .* delete it: the search begins again then"):
            read(tmp_path)


def test_an_empty_journal_is_a_search_that_has_not_begun(tmp_path):
    (tmp_path / JOURNAL).touch()
    assert tried_in(tmp_path) == []
    assert opened(tmp_path).tried() == []
