"""The store: written atomically, resumable, checked when opened, safe in worker processes."""

import json
import os

import lmdb
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from moleblend_fs.data.batch import collate
from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.data.record import decode
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.writer import StoreWriter, label_statistics
from moleblend_fs.errors import UserError
from tests.data.random_graphs import random_graph

LABELS = (LabelSpec(name="a", unit="eV", kind="regression"), LabelSpec(name="b", unit="", kind="classification"))
REQUEST = {"source": "test"}


def molecules(count, start=0):
    rng = np.random.default_rng(start)
    return [(start + i, EncodedMolecule.from_graph(random_graph(rng, 1 + (start + i) % 9), start + i)) for i in range(count)]


def finish(writer):
    return writer.finish(source="test", options={}, inputs={}, labels=LABELS, splitter=Splitter(kind="random"), versions={})


def make(path, count=40):
    with StoreWriter(path, REQUEST) as writer:
        writer.add(molecules(count), count)
        return finish(writer)


@pytest.fixture
def store(tmp_path):
    make(tmp_path / "s")
    return Store(tmp_path / "s")


def test_contents(store):
    assert len(store) == 40
    assert store.num_atoms.tolist() == [1 + i % 9 for i in range(40)]
    assert store.source_row.tolist() == list(range(40))
    assert {name: len(store.split(name)) for name in store.splits} == {"train": 32, "valid": 4, "test": 4}
    row, graph = decode(store.record(17))
    assert (row, graph.num_atoms) == (17, 9)
    labels = np.stack([decode(store.record(i))[1].labels for i in range(40)])
    np.testing.assert_array_equal(store.labels(range(40)), labels)
    train = store.manifest.statistics["train"][0]
    assert train.mean == pytest.approx(labels[store.split("train"), 0].mean(dtype=np.float64))
    assert store.manifest.label_index("b") == 1
    with pytest.raises(UserError, match="no label 'c' in this store; it has: a, b"):
        store.manifest.label_index("c")
    with pytest.raises(UserError, match="no split 'dev'"):
        store.split("dev")
    with pytest.raises(UserError, match="no molecule 40"):
        store.record(40)


def test_a_store_appears_only_when_finished(tmp_path):
    path = tmp_path / "s"
    with StoreWriter(path, REQUEST) as writer:
        writer.add(molecules(10), 10)
        assert not path.exists()
    with pytest.raises(UserError, match="is unfinished"):
        Store(path)
    with StoreWriter(path, REQUEST) as writer:
        assert (writer.next_row, writer.molecules) == (10, 10)
        writer.add([*molecules(5, 10), (15, Failure(input="x", reason="y"))], 16)
        assert finish(writer).failures == 1
    assert sorted(p.name for p in path.iterdir()) == [
        "failures.csv",
        "manifest.json",
        "num_atoms.npy",
        "records.lmdb",
        "source_row.npy",
        "split_test.npy",
        "split_train.npy",
        "split_valid.npy",
    ]
    assert not (tmp_path / "s.partial").exists()
    with pytest.raises(UserError, match="exists already"):
        StoreWriter(path, REQUEST)


def test_two_writers_of_one_store_are_refused(tmp_path):
    with StoreWriter(tmp_path / "s", REQUEST), pytest.raises(UserError, match="being written by another process"):
        StoreWriter(tmp_path / "s", REQUEST)


def test_other_request_is_refused(tmp_path):
    with StoreWriter(tmp_path / "s", REQUEST) as writer:
        writer.add([(0, EncodedMolecule(record=b"x", split=None, scaffold=None))], 1)
    with pytest.raises(UserError, match="other options or inputs"):
        StoreWriter(tmp_path / "s", {"source": "else"})


def edit_manifest(store, **changes):
    path = store.path / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | changes))


def test_damaged_stores_are_refused(tmp_path):
    for path, message in ((tmp_path / "none", "no such store"), (tmp_path, "not a store")):
        with pytest.raises(UserError, match=message):
            Store(path)
    for name, message in (("format_version", "store of format 99.*A newer version"), ("featurisation_version", "featurisation 99")):
        make(tmp_path / name)
        edit_manifest(Store(tmp_path / name), **{name: 99})
        with pytest.raises(UserError, match=message):
            Store(tmp_path / name)
    make(tmp_path / "text")
    (tmp_path / "text" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a readable store manifest"):
        Store(tmp_path / "text")
    make(tmp_path / "cut")
    records = tmp_path / "cut" / "records.lmdb"
    os.truncate(records, records.stat().st_size // 2)
    with pytest.raises(UserError, match="the copy is incomplete"):
        Store(tmp_path / "cut")
    make(tmp_path / "junk")
    records = tmp_path / "junk" / "records.lmdb"
    records.write_bytes(b"junk" * (records.stat().st_size // 4))
    with pytest.raises(UserError, match="not an LMDB file"):
        Store(tmp_path / "junk")


class Records(Dataset):
    def __init__(self, path):
        self.store = Store(path)

    def __len__(self):
        return len(self.store)

    def __getitem__(self, index):
        return self.store.record(index)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers(tmp_path, method):
    """The parent reads first, so that a forked worker inherits an open store; workers and parent read the same."""
    make(tmp_path / "s", 200)
    data = Records(tmp_path / "s")
    before = [data[i] for i in range(200)]
    loader = DataLoader(data, batch_size=16, num_workers=2, multiprocessing_context=method, collate_fn=collate)
    for _ in range(2):
        batches = list(loader)
        assert [i for batch in batches for i in batch.molecule_id.tolist()] == list(range(200))
        assert sum(len(batch.atom_features) for batch in batches) == data.store.num_atoms.sum()
        assert [data[i] for i in range(200)] == before


def test_record_file_is_plain_lmdb(store):
    store.record(0)
    copy = store.path / "copy.lmdb"
    copy.write_bytes((store.path / "records.lmdb").read_bytes())
    with lmdb.open(str(copy), subdir=False, readonly=True, lock=False) as environment, environment.begin() as transaction:
        keys = [int.from_bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
    assert keys == list(range(40))


def test_label_statistics_leave_missing_values_out():
    values = np.array([[1, np.nan], [2, np.nan], [6, np.nan], [np.nan, np.nan]], dtype=np.float32)
    first, second = label_statistics(values)
    assert (first.count, first.mean, first.min, first.max) == (3, 3.0, 1.0, 6.0)
    assert first.std == pytest.approx(np.std([1, 2, 6]))
    assert second is None
