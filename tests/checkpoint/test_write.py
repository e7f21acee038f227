"""Checkpoint files are whole or not there."""

import errno
import os

import pytest
import torch

from moleblend_fs.checkpoint import write
from moleblend_fs.errors import UserError


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    write.save_torch_file({"x": torch.ones(3)}, path)
    before = path.read_bytes()

    class Full:
        def __reduce__(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        write.save_torch_file({"x": torch.ones(300_000), "y": Full()}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_second_name_shows_the_new_content_at_once(tmp_path):
    old, new = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_best.pt"
    write.save_torch_file({"x": torch.zeros(3)}, old)
    write.save_torch_file({"x": torch.ones(3)}, new)
    assert write.copy(new, old)
    write.save_torch_file({"x": torch.full((3,), 2.0)}, new)
    assert torch.load(old, weights_only=True)["x"].tolist() == [1, 1, 1], "saving under one name leaves the other alone"
