"""What has its final name is on the disk: flushed before the rename, and the name flushed after it, wherever files are written."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from moleblend_fs.checkpoint import zero_moments
from moleblend_fs.checkpoint.adam_state import MOMENTS
from moleblend_fs.checkpoint.write import copy, save_torch_file
from moleblend_fs.checkpoint.zero_moments import FOLDER, Piece
from moleblend_fs.data.store_parts import ShardNumber, finish_shard, merge_shards
from moleblend_fs.data.writer import StoreWriter
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file, write_atomically
from tests.data.test_damage import PLAN, results
from tests.data.test_store import REQUEST, finish, molecules
from tests.inference.untrained_models import untrained


class Disk:
    """Notes, in order, what is flushed (which file, in what state) and what is renamed; both are done all the same.

    Files are known by device and inode, which a rename does not change.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.events: list[tuple] = []
        self.do = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}
        monkeypatch.setattr(os, "fsync", self.fsync)
        for name in ("replace", "rename"):
            monkeypatch.setattr(os, name, lambda source, target, name=name: self.rename(name, source, target))

    @staticmethod
    def state(found: os.stat_result, with_content: bool = True) -> tuple:
        return (found.st_dev, found.st_ino, *((found.st_size, found.st_mtime_ns) if with_content else ()))

    def fsync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self.events += [("flushed", self.state(found)), ("flushed", self.state(found, with_content=False))]
        self.do["fsync"](descriptor)

    def rename(self, name: str, source: str, target: str) -> None:
        self.events.append(("renamed", self.state(os.stat(source), with_content=False)))
        self.do[name](source, target)

    def check(self, path: Path) -> None:
        """A file, or a folder with all that it holds, came to its name as the module says."""
        renamed = self.events.index(("renamed", self.state(path.stat(), with_content=False)))
        before, after = self.events[:renamed], self.events[renamed:]
        files = list(path.iterdir()) if path.is_dir() else [path]
        assert files
        for file in files:
            assert ("flushed", self.state(file.stat())) in before, f"{file}: not flushed as it is now before it had its name"
        if path.is_dir():
            assert ("flushed", self.state(path.stat(), with_content=False)) in before, f"{path}: its names were not flushed"
        parent = self.state(path.parent.stat(), with_content=False)
        assert ("flushed", parent) in after, f"{path}: its own name was not flushed"


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_files(disk, tmp_path):
    write_atomically(tmp_path / "new" / "text", "a" * 100_000)
    write_atomically(tmp_path / "bytes", b"old")
    write_atomically(tmp_path / "bytes", b"newer")
    for name in ("new/text", "bytes"):
        disk.check(tmp_path / name)


def test_checkpoints(disk, tmp_path):
    save_torch_file({"x": torch.arange(1000)}, tmp_path / "a.pt")
    disk.check(tmp_path / "a.pt")
    disk.events.clear()
    copy(tmp_path / "a.pt", tmp_path / "b.pt")
    disk.check(tmp_path / "b.pt")
    disk.check(untrained(tmp_path / "converted"))


def test_moments_and_the_folder_that_a_checkpoint_names(disk, tmp_path):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        named = zero_moments.write(str(tmp_path), 12, {"a": Piece(0, {key: torch.ones(5) for key in MOMENTS})})
    finally:
        dist.destroy_process_group()
    (file,) = (tmp_path / FOLDER / named["shards"]).iterdir()
    disk.check(file)
    assert disk.events[-1] == ("flushed", disk.state((tmp_path / FOLDER).stat(), with_content=False))


def test_stores_and_their_parts(disk, tmp_path):
    with StoreWriter(tmp_path / "whole", REQUEST) as writer:
        writer.add(molecules(40), 40)
        finish(writer)
    disk.check(tmp_path / "whole")
    for index in range(2):
        shard = ShardNumber(index, 2)
        rows = [row for row in range(40) if shard.takes(row)]
        with StoreWriter(shard.path(tmp_path / "parts"), PLAN.request()) as writer:
            writer.add(results(rows), 40)
            finish_shard(writer, shard, PLAN, 40, {})
        disk.check(shard.path(tmp_path / "parts"))
    merge_shards(tmp_path / "parts")
    disk.check(tmp_path / "parts")


@pytest.mark.parametrize("write", [lambda path: write_atomically(path, "x"), lambda path: save_torch_file({}, path)])
def test_a_file_that_cannot_be_flushed_is_not_given_its_name(write, tmp_path, monkeypatch):
    """What is left after a power cut would be an empty file under the name of a whole one."""
    write(tmp_path / "x")
    before = (tmp_path / "x").read_bytes()

    def fails(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UserError, match="Input/output error"):
        write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_may_be_written_to_but_not_listed(tmp_path, monkeypatch):
    """Its names cannot be flushed by us: the file is written all the same."""
    opened = os.open

    def refuse(path, flags, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with whole_file(tmp_path / "x") as stream:
        stream.write("1")
    assert (tmp_path / "x").read_text() == "1"
