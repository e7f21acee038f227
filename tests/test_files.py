"""Whole files or none, streams, JSON without NaN."""

import csv
import errno
import io
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, as_json, is_stream, told, whole_file, whole_folder, write_atomically

pytestmark = pytest.mark.cold


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("mask", "of_files", "of_folders"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700)])
def test_new_files_and_folders_have_the_rights_that_the_user_gives(tmp_path, mask, of_files, of_folders):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "x", "new")
        with whole_folder(tmp_path / "folder") as folder:
            (folder / "x").touch()
    finally:
        after = os.umask(before)
    assert after == mask
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x", "folder")] == [of_files, of_folders]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_any_text_is_a_cell(delimiter):
    rows = [["a\rb", "c"], ["d\r\ne", 1], ["plain", 'quoted "x"'], ["\r", ""], [delimiter, "\n"]]
    stream = io.StringIO(newline="")
    CsvWriter(stream, delimiter).writerows(rows)
    read = csv.reader(io.StringIO(stream.getvalue(), newline=""), delimiter=delimiter)
    assert list(read) == [[str(cell) for cell in row] for row in rows]
    assert f'\nplain{delimiter}"quoted ""x"""\n' in stream.getvalue(), "nothing else is quoted"


@pytest.mark.parametrize(("old", "new"), [("old", "new\r\n\u00e9"), (b"old", b"\x00new\n")])
def test_new_content_or_the_old_one(tmp_path, old, new):
    path, mode = tmp_path / "deep" / "x", "w" if isinstance(new, str) else "wb"
    write_atomically(path, old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o600)

    def fail() -> None:
        with whole_file(path, mode) as stream:
            stream.write(new)
            stream.flush()
            assert path.read_bytes() == b"old", "the old file must stay until the new one is whole"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    write_atomically(path, new)
    assert path.read_bytes() == (new if isinstance(new, bytes) else new.encode())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "the rights of the file that was there"
    assert names(path.parent) == ["x"]


def test_names_that_are_hard_to_handle(tmp_path):
    for name in ("a:b", "a\nb", "-x", "%s{}", "\u00e9" * 120, os.fsdecode(b"\xff"), "x" * 255):
        write_atomically(tmp_path / name, name.encode(errors="surrogateescape").decode(errors="replace"))
    assert len(names(tmp_path)) == 7
    write_atomically(tmp_path / "a:b", "undecodable \udcff is written as its escape")
    assert (tmp_path / "a:b").read_text() == "undecodable \\udcff is written as its escape"


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(Path("real") / "x")
    write_atomically(tmp_path / "link", "1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "x").read_text() == "1"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop: cannot be written"):
        write_atomically(tmp_path / "loop", "1")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path, "Is a directory; name a file, not a folder"),
        (tmp_path / "file" / "x", "(Not a directory|File exists)"),
        (tmp_path / ("x" * 300), "File name too long; choose a shorter name"),
        (Path("/proc/nothing/here"), "No such file or directory"),
        (Path("/dev/null/x"), "(Not a directory|File exists)"),
    ):
        with pytest.raises(UserError, match=f"cannot be written \\({reason}"), whole_file(path):
            pytest.fail("the work must not begin")
    assert names(tmp_path) == ["file"]


def test_a_full_device_and_a_full_disk(tmp_path):
    """/dev/full, and a limit on the size of files, which Python turns into an OSError as a full disk."""
    assert is_stream("/dev/full")
    with pytest.raises(UserError, match=r"/dev/full: cannot be written \(No space left on device; the disk is full: make room"):
        write_atomically("/dev/full", "x")
    write_atomically(tmp_path / "x", "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"x: cannot be written \(File too large; a limit on the size of files"):
            write_atomically(tmp_path / "x", b"y" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_errors_of_the_work_are_not_taken_for_the_files(tmp_path):
    for error in (OSError(errno.EMFILE, "Too many open files"), ValueError("a"), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        with pytest.raises(type(error)) as caught, whole_file(tmp_path / "x"):
            raise error
        assert caught.value is error
    assert names(tmp_path) == []
    assert told(OSError(errno.EMFILE, "Too many open files")) == "Too many open files; raise the limit (ulimit -n), or use fewer --workers"


def test_pipes_and_standard_output(tmp_path):
    """/dev/stdout as a pipe, and redirected to a file that others have written to, which must not be cut or replaced."""
    code = "from moleblend_fs.files import *; print('before'); write_atomically('/dev/stdout', 'text\\n'); print('after')"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "before\ntext\nafter\n"
    with open(tmp_path / "log", "w") as log:
        log.write("first\n")
        log.flush()
        subprocess.run(words, stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "first\nbefore\ntext\nafter\n"
    assert not is_stream(tmp_path / "log")
    assert Path("/dev/stdout").is_symlink()
    read, write = os.pipe()
    write_atomically(f"/dev/fd/{write}", b"bytes")
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert stream.read() == b"bytes"


def test_json_has_no_nan():
    value = {"a": [float("nan"), 1.5, (float("inf"), -2)], "b": {"c": -float("inf"), "d": None}, "e": "NaN"}
    text = as_json(value)
    assert json.loads(text) == {"a": [None, 1.5, [None, -2]], "b": {"c": None, "d": None}, "e": "NaN"}
    assert "NaN," not in text


def test_a_whole_folder_or_none(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("there", "loop"):
        with pytest.raises(UserError, match=f"{name} exists already"), whole_folder(tmp_path / name):
            pytest.fail("the work must not begin")

    def fail() -> None:
        with whole_folder(tmp_path / "new" / "folder") as folder:
            (folder / "x").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path / "new") == []
    with whole_folder(tmp_path / "new" / "folder") as folder:
        (folder / "x").write_text("1")
        assert names(tmp_path / "new") == [folder.name] != ["folder"]
    assert (tmp_path / "new" / "folder" / "x").read_text() == "1"
    assert stat.S_IMODE((tmp_path / "new" / "folder").stat().st_mode) == 0o755


def test_a_file_that_goes_to_a_closed_standard_output_is_not_lost_silently():
    """What is opened in its place leads nowhere."""
    script = """
import sys
from moleblend_fs.cli.standard_output import none_closed
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file
none_closed()
try:
    with whole_file("/dev/stdout") as stream:
        stream.write("a row")
except UserError as error:
    print(error, file=sys.stderr)
"""
    done = subprocess.run(["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "/dev/stdout: cannot be written (standard output is closed; name a file)\n"
