"""The list of molecules that a run has learned from."""

import torch

from moleblend_fs.runtime.molecules_seen import Recorder, read, seen_by_epoch


def test_the_ledger_counts_what_was_kept(tmp_path):
    def sample(*ids):
        return {"id": torch.tensor(ids)}

    for rank, molecules in enumerate(([1, 2], [3])):
        ledger = Recorder(str(tmp_path / "one"), rank)
        ledger.write(1, 1, [sample(*molecules)])
        ledger.write(2, 1, [sample(*(m + 10 for m in molecules)), {}])
    second = Recorder(str(tmp_path / "two"), 0)
    second.write(2, 1, [sample(13, 12)])
    second.write(3, 1, [sample(11)])
    with (next((tmp_path / "one").iterdir())).open("a") as file:
        file.write('{"update": 3, "epo')
    assert sorted(read(tmp_path / "one")[2][1]) == [11, 12, 13]
    assert seen_by_epoch([tmp_path / "one", tmp_path / "two"])[1] == {1: 1, 2: 1, 3: 1, 13: 1, 12: 1, 11: 1}
