"""Lists of molecules: written, read by any, damaged."""

import pickle

import pytest

from moleblend_fs.data.ragged_lists import LISTS, STARTS, ListFile, padded, write_lists
from moleblend_fs.errors import UserError


def test_lists_are_read_as_written(tmp_path):
    lists = [[], [1, 65_535, 0], [7] * 500, []]
    assert write_lists(tmp_path, lists) == 2
    for found in (ListFile(tmp_path, 4), pickle.loads(pickle.dumps(ListFile(tmp_path, 4)))):
        assert [numbers.tolist() for numbers in found.of([3, 2, 1, 0, 1])] == [lists[i] for i in (3, 2, 1, 0, 1)]
    rows = padded(ListFile(tmp_path, 4).of([1, 0]))
    assert rows.tolist() == [[1, 65_535, 0], [0, 0, 0]]
    assert padded([]).shape == padded(ListFile(tmp_path, 4).of([]))[:, :0].shape == (0, 0)


def test_damage_is_told(tmp_path):
    write_lists(tmp_path, [[1, 2], [3]])
    with pytest.raises(ValueError, match=f"{STARTS} has 24 bytes instead of 32"):
        ListFile(tmp_path, 3)
    whole = (tmp_path / LISTS).read_bytes()
    (tmp_path / LISTS).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"{LISTS} has 5 bytes instead of 6"):
        ListFile(tmp_path, 2)
    (tmp_path / LISTS).write_bytes(whole)
    found = ListFile(tmp_path, 2)
    (tmp_path / LISTS).write_bytes(whole[:3])
    with pytest.raises(UserError, match="cut short while it was read"):
        found.of([1])
    (tmp_path / STARTS).unlink()
    with pytest.raises(ValueError, match=f"{STARTS} is missing instead of 24"):
        ListFile(tmp_path, 2)
