"""Training end to end is measured on the sample's molecules, repeated: what is made of them is read as the release is."""

import numpy as np

from benchmarks.end_to_end import UPDATES, repeat
from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store


def test_a_repeated_sample_becomes_a_store(shared, tmp_path):
    repeat(shared / "data" / "pcqm4mv2", tmp_path / "repeated", 1700)
    assert main(["preprocess", "pcqm4mv2", str(tmp_path / "repeated"), str(tmp_path / "store"), "--no-progress", "--limit", "1700"]) == 0
    store = Store(tmp_path / "store")
    sizes = np.array(store.num_atoms)
    assert len(sizes) == 1700
    assert len(store.split("train")) == 1700
    times = 1700 - 1600
    assert (sizes[:times] == sizes[1600:]).all(), "the sample's training molecules come again"


def test_every_way_has_intervals_beside_the_one_that_warms_up():
    assert all(updates // every > 1 for updates, every in UPDATES.values())
