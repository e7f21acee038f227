"""What training says and where it writes: the console, --log-file, details.log; folders that are made, or cannot be; odd paths."""

import json
import logging
import math
import os
import resource
import shutil
import threading

import pytest

from fairseq_plugins import console, output_paths
from fairseq_plugins.patches import loader_processes
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.runtime import folder_lock
from tests.fairseq_plugins.runs import ADAM, BIN, FINETUNE, PRETRAIN, ROOT, SMALL, command, run_here, train, train_forked
from tests.support import forked_ranks

COMMON = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "40")


def words(store, folder, *options: str) -> list[str]:
    """fairseq-train's arguments as a user gives them, without the tests' own choice of checkpoints."""
    return [str(store), "--user-dir", str(ROOT / "moleblend_fs"), "--save-dir", str(folder), *COMMON, "--lr-scheduler", "fixed", *options]


@pytest.mark.slow
@pytest.mark.cold
def test_the_console_has_what_matters_and_the_details_the_rest(qm9_store, tmp_path):
    """A run of three epochs, with colons and blanks in each path, and folders that are made."""
    place = tmp_path / "run 10:30"
    shutil.copytree(qm9_store.path, place / "store")
    out, log = place / "made" / "out", place / "logs" / "new" / "train.log"
    options = ("--max-epoch", "3", "--log-interval", "1", "--log-format", "json", "--num-workers", "1")
    files = ("--log-file", str(log), "--tensorboard-logdir", str(place / "boards"))
    run = command([str(BIN / "fairseq-train"), *words(place / "store", out, *options, *files)], out)
    assert run.code == 0, run.output[-3000:]
    assert len(run.logged("train_inner")) == 9
    said = [line for line in run.output.splitlines() if '{"' not in line]
    assert len(said) < 40
    assert max(map(len, said)) < 300
    assert not [line for line in said if "Warning" in line or "'_name'" in line or "Linear(" in line]
    assert any("saved checkpoint" in line for line in said)
    details = (out / console.DETAILS).read_text()
    for part in ("hydra", "UserWarning", "{'_name': None, 'common'", "FairseqMoleBlend(", "saved checkpoint", '"train_loss"'):
        assert part in details, part
    logged = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"')]
    assert len(logged) == 9 + 3 + 3, "each line once, however many epochs there were"
    assert sorted(path.name for path in out.iterdir()) == [folder_lock.FILE, "checkpoint_best.pt", "checkpoint_last.pt", console.DETAILS]
    assert (place / "boards" / "train_inner").is_dir()
    start = ("--finetune-from-model", str(out / "checkpoint_best.pt"), "--targets", "gap")
    tuned = train(place / "store", place / "tuned", *FINETUNE, *SMALL, *ADAM, "--batch-size", "40", "--max-epoch", "1", *start)
    assert tuned.code == 0, tuned.output[-3000:]


@pytest.mark.parametrize(
    ("options", "kept"),
    [((), []), (("--save-interval", "1"), [1, 2, 3]), (("--save-interval=2",), [2]), (("--keep-last-epochs", "2"), [2, 3])],
)
def test_best_and_last_are_kept_unless_more_is_asked_for(qm9_store, tmp_path, options, kept):
    run = run_here(words(qm9_store.path, tmp_path, "--max-epoch", "3", *options), tmp_path)
    assert run.code == 0, run.output[-3000:]
    expected = [*(f"checkpoint{epoch}.pt" for epoch in kept), "checkpoint_best.pt", "checkpoint_last.pt"]
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == expected


@pytest.mark.parametrize("option", ["--save-dir", "--log-file", "--tensorboard-logdir"])
def test_places_that_cannot_be_written_to(qm9_store, tmp_path, option):
    (tmp_path / "file").write_text("mine")
    run = train(qm9_store.path, tmp_path / "out", *COMMON, "--max-update", "1", option, str(tmp_path / "file" / "below"))
    assert run.code == 2
    assert f"moleblend: error: {option} {tmp_path / 'file' / 'below'}: cannot be written (" in run.output
    assert "Traceback" not in run.output
    assert (tmp_path / "file").read_text() == "mine"


def test_a_log_file_on_a_full_disk_ends_the_run(qm9_store, tmp_path, capsys):
    run = train(qm9_store.path, tmp_path, *COMMON, "--max-update", "1", "--log-file", "/dev/full")
    assert run.code == 2
    assert "moleblend: error: --log-file /dev/full: cannot be written (No space left on device; the disk is full" in run.output
    assert "Logging error" not in run.output + capsys.readouterr().err
    assert not list(tmp_path.glob("*.pt"))


def test_details_that_cannot_be_written_are_no_reason_to_stop(qm9_store, tmp_path):
    (tmp_path / console.DETAILS).symlink_to("/dev/full")
    run = train(qm9_store.path, tmp_path, *COMMON, "--max-update", "1")
    assert run.code == 0, run.output[-3000:]
    assert run.output.count("details.log ends here: No space left on device") == 1
    assert (tmp_path / "checkpoint_last.pt").exists()


def test_a_users_file_called_dummy_outlives_the_start(qm9_store, tmp_path):
    """fairseq tries a folder with a file of that name, and removes it."""
    (tmp_path / "dummy").write_text("mine")
    assert train(qm9_store.path, tmp_path, *COMMON, "--max-update", "1").code == 0
    assert (tmp_path / "dummy").read_text() == "mine"


def test_errors_of_the_system_are_told(tmp_path):
    with pytest.raises(OSError, match="gone") as raised:
        (tmp_path / "gone").read_text()
    assert str(output_paths.error_of_system(raised.value)) == f"{tmp_path / 'gone'}: No such file or directory"


def with_few_open_files(words: list[str]) -> None:
    """fairseq-train after `ulimit -n 64`."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    forked_ranks.fairseq_train(words)


def test_too_few_open_files_are_told_before_loaders_hang(qm9_store, tmp_path):
    run = train_forked(qm9_store.path, tmp_path, *COMMON, "--max-update", "1", "--num-workers", "2", entry=with_few_open_files)
    assert run.code == 2
    assert "--num-workers 2 needs up to" in run.output
    assert "--num-workers 0 needs none" in run.output


def test_open_files_are_counted():
    loader_processes.check_open_files(0, held=10**9)
    loader_processes.check_open_files(1, held=1)
    with pytest.raises(UserError, match=f"needs up to {loader_processes.TENSORS}000000"):
        loader_processes.check_open_files(1, held=10**9)


class Damaged:
    """A data set whose third element cannot be read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise UserError("store: record 2 is damaged")
        return index


def test_what_a_loader_process_finds_is_told_as_it_is():
    loader = loader_processes.Loader(Damaged(), num_workers=1, batch_size=1, multiprocessing_context="fork")
    found = []
    with pytest.raises(UserError, match=r"^store: record 2 is damaged$"):
        found.extend(iter(loader))


class Waiting(Damaged):
    """A data set whose first element never comes."""

    def __getitem__(self, index: int) -> int:
        threading.Event().wait()
        return index


@pytest.mark.slow
def test_a_loader_process_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(loader_processes, "LOADER_TIMEOUT", 5)
    with pytest.raises(UserError, match=r"a loader process failed .nothing has come for 5 s.*--num-workers 0"):
        next(iter(loader_processes.Loader(Waiting(), num_workers=1, batch_size=1, multiprocessing_context="fork")))


def with_a_dying_loader(words: list[str]) -> None:
    """fairseq-train, whose loader ends as one does for which memory has run out."""
    read = Store.records
    Store.records = lambda self, indices: os._exit(9) if 5 in list(indices) else read(self, indices)
    forked_ranks.fairseq_train(words)


def test_a_loader_process_that_dies_is_told(qm9_store, tmp_path):
    run = train_forked(qm9_store.path, tmp_path, *COMMON, "--max-epoch", "1", "--num-workers", "1", entry=with_a_dying_loader)
    assert run.code == 2, run.output[-3000:]
    assert "moleblend: error: a loader process failed (" in run.output
    assert "exited unexpectedly" in run.output


def test_lines_about_time():
    assert console.describe(120, 600, "3 of 10", 2.0) == "update 120 of 600 (20 %), epoch 3 of 10: 2 updates/s, about 4 min to go"
    assert console.describe(7, math.inf, "3", 0.12345) == "update 7, epoch 3: 0.123 updates/s"
    expected = {0.4: "0 s", 59.6: "1 min", 208: "3 min 28 s", 3600: "1 h", 7384: "2 h 3 min", 100_000: "1 d 3 h", 86_405: "1 d"}
    assert {seconds: console.duration(seconds) for seconds in expected} == expected


def test_how_long_it_will_take_is_said_at_log_intervals(qm9_store, tmp_path, monkeypatch):
    """With nothing between lines but log intervals: each but the first, of the last update by --max-update or --max-epoch."""
    monkeypatch.setattr(console, "SECONDS_BETWEEN", 0.0)
    for limit, last in ((("--max-update", "8"), 8), (("--max-epoch", "2"), 6), (("--max-epoch", "2", "--max-update", "5"), 5)):
        folder = tmp_path / str(last)
        run = train(qm9_store.path, folder, *COMMON, *limit, "--no-save", "--disable-validation", "--log-interval", "2")
        lines = [line for line in run.output.splitlines() if "updates/s, about" in line]
        assert [line.split(" (")[0] for line in lines] == [f"update {update} of {last}" for update in range(2, last + 1, 2)]


def test_what_the_console_shows(tmp_path):
    def record(name: str, level: int, message, path: str) -> logging.LogRecord:
        return logging.LogRecord(name, level, path, 1, message, (), None)

    ours, theirs = str(ROOT / "moleblend_fs" / "x.py"), "/site-packages/torch/x.py"
    assert console.matters(record("moleblend_fs.x", logging.INFO, "text", ours))
    assert console.matters(record("held out", logging.INFO, '{"a": 1}', str(console.SOURCES[0]) + "logging/progress_bar.py"))
    assert console.matters(record("torch", logging.ERROR, "text", theirs))
    assert not console.matters(record("torch", logging.WARNING, "text", theirs))
    assert not console.matters(record("py.warnings", logging.WARNING, "text", ours))
    assert not console.matters(record("fairseq_cli.train", logging.INFO, {"a": 1}, ours))


def test_a_command_with_folders_that_are_not_there(qm9_store, tmp_path):
    """A log file beside checkpoints that are still to be made, as in the README."""
    run = train_forked(
        qm9_store.path, tmp_path / "runs" / "a", *COMMON, "--max-update", "1", "--log-file", str(tmp_path / "runs" / "a" / "t.log")
    )
    assert run.code == 0, run.output[-3000:]


def test_a_loader_process_whose_end_is_seen_by_its_pipe_first():
    error = loader_processes.failed(ConnectionResetError(104, "Connection reset by peer"))
    assert str(error).startswith("a loader process failed (it exited unexpectedly: Connection reset by peer); fewer --num-workers")
