"""Damaged stores, half-made stores and shards: a message that names the file, never a crash, a traceback, or other contents unseen."""

import collections
import contextlib
import json
import shutil
import subprocess
import sys

import lmdb
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from moleblend_fs.cli.main import main
from moleblend_fs.data.batch import collate
from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.lmdb_file import LmdbFile
from moleblend_fs.data.partial_store import TABLES
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import RECORDS, Store, forget
from moleblend_fs.data.store_parts import ShardNumber, StorePlan, finish_shard, merge_shards
from moleblend_fs.data.verification import problems
from moleblend_fs.data.writer import StoreWriter
from moleblend_fs.errors import UserError
from tests.data.random_graphs import random_graph
from tests.data.test_store import LABELS

DAMAGED_STORES, DAMAGED_TABLES = 160, 120
ROWS = 60
REQUEST = {"source": "test"}
PLAN = StorePlan(source="test", options={}, inputs={}, labels=LABELS, splitter=Splitter(kind="random"), versions={})


def results(rows):
    """A molecule for each row, every seventh a failure."""
    for row in rows:
        graph = random_graph(np.random.default_rng(row), 1 + row % 9)
        yield row, Failure(input=f"junk{row}", reason="no molecule") if row % 7 == 3 else EncodedMolecule.from_graph(graph, row)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store, a half-made one, and two shards."""
    folder = tmp_path_factory.mktemp("whole")
    with StoreWriter(folder / "store", REQUEST) as writer:
        writer.add(results(range(ROWS)), ROWS, ROWS)
        PLAN.finish(writer, ROWS, {})
    with StoreWriter(folder / "half", PLAN.request()) as writer:
        for start in range(0, 40, 10):
            writer.add(results(range(start, start + 10)), start + 10)
    for index in range(2):
        shard = ShardNumber(index, 2)
        with StoreWriter(shard.path(folder / "shards"), PLAN.request()) as writer:
            rows = [row for row in range(600) if shard.takes(row)]
            writer.add(((row, result) for row, result in results(rows)), 600)
            finish_shard(writer, shard, PLAN, 600, {})
    return folder


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, zeroed, cut, doubled or put in."""
    result = bytearray(content)
    at, length = int(rng.integers(len(result) + 1)), int(rng.integers(1, 200))
    kind = int(rng.integers(6))
    if kind == 0:
        for place in rng.integers(len(result), size=int(rng.integers(1, 20))):
            result[place] = int(rng.integers(256))
    elif kind == 1:
        result[at : at + length] = rng.bytes(len(result[at : at + length]))
    elif kind == 2:
        result[at : at + length] = bytes(len(result[at : at + length]))
    elif kind == 3:
        del result[at:]
    elif kind == 4:
        result[at:at] = result[at : at + length]
    else:
        del result[at : at + length]
    return bytes(result)


def contents(path):
    """All that a store gives; UserError where it cannot be read."""
    store = Store(path)
    records = store.records(range(len(store)))
    collate(records)
    splits = {name: store.split(name).tolist() for name in store.splits}
    return [bytes(r) for r in records], splits, store.source_row.tolist(), store.num_atoms.tolist(), list(store.failures())


def test_damaged_stores(whole, tmp_path, capsys):
    """`inspect --verify` ends with 0, 1 or 2; with 0 only if records, splits, sizes and rows are as they were written."""
    names = sorted(path.name for path in (whole / "store").iterdir())
    expected, counts = contents(whole / "store"), collections.Counter()
    for seed in range(DAMAGED_STORES):
        rng = np.random.default_rng(seed)
        path = tmp_path / f"s{seed}"
        shutil.copytree(whole / "store", path)
        name = RECORDS if seed % 2 else names[seed // 2 % len(names)]
        if seed % 40 == 0:
            (path / name).unlink()
        else:
            (path / name).write_bytes(damage((path / name).read_bytes(), rng))
        code = main(["inspect", str(path), "--molecules", "1", "--verify"])
        said = capsys.readouterr().err
        assert code in (0, 1, 2), seed
        assert (str(path) in said) == (code != 0), (seed, said)
        if code == 0:
            found = contents(path)
            # The texts of failures.csv have no checksum.
            assert found[:4] == expected[:4], (seed, name)
            assert [failure.row for failure in found[4]] == [failure.row for failure in expected[4]] or name == "failures.csv", seed
        counts[f"{name}: {code}"] += 1
        forget(path / RECORDS)
    print(f"\n{DAMAGED_STORES} damaged stores: {dict(sorted(counts.items()))}")
    assert sum(count for name, count in counts.items() if not name.endswith(": 0")) > DAMAGED_STORES // 2


def test_damaged_halves_and_shards(whole, tmp_path):
    """Resuming and merging give a store, or a message that names the file; LMDB is never let loose on a damaged one."""
    counts = collections.Counter()
    for seed in range(DAMAGED_TABLES):
        rng, path = np.random.default_rng(1000 + seed), tmp_path / str(seed)
        kind = "half" if seed % 2 else "shard"
        place = path / "s.partial" if kind == "half" else ShardNumber(0, 2).path(path / "s")
        shutil.copytree(whole / "half.partial", place) if kind == "half" else shutil.copytree(whole / "shards.shards", place.parent)
        (place / TABLES).write_bytes(damage((place / TABLES).read_bytes(), rng))
        try:
            if kind == "half":
                with StoreWriter(path / "s", PLAN.request()) as writer:
                    writer.add(results(range(40, ROWS)), ROWS)
                    PLAN.finish(writer, ROWS, {})
            else:
                merge_shards(path / "s")
        except UserError as error:
            counts[f"{kind}: told"] += str(path) in str(error)
        else:
            contents(path / "s")
            counts[f"{kind}: stored"] += 1
    print(f"\n{DAMAGED_TABLES} damaged working tables: {dict(sorted(counts.items()))}")
    assert sum(counts.values()) == DAMAGED_TABLES
    assert counts["half: told"] > DAMAGED_TABLES // 4
    assert counts["shard: told"] > DAMAGED_TABLES // 4


@pytest.mark.parametrize("name", ["half", "shards"])
def test_tables_that_are_cut_are_told(whole, tmp_path, name):
    """LMDB's own library ends the process with SIGBUS."""
    source = whole / ("half.partial" if name == "half" else "shards.shards")
    place = tmp_path / ("s.partial" if name == "half" else "s.shards")
    shutil.copytree(source, place)
    tables = place / TABLES if name == "half" else place / "1-of-2" / TABLES
    tables.write_bytes(tables.read_bytes()[: tables.stat().st_size // 2])
    with pytest.raises(UserError, match=r"work\.lmdb: .*the file is cut short.* delete .* (to begin anew|and make it again)"):
        merge_shards(tmp_path / "s") if name == "shards" else StoreWriter(tmp_path / "s", PLAN.request())


def test_pages_that_lmdb_took_and_gave_back_may_lack_at_the_end(whole, tmp_path):
    """But none that holds something."""
    content = (whole / "half.partial" / TABLES).read_bytes()
    for page in (0, 4096):  # the metas: last page, at 16 + 24 + 2 * 48
        at = page + 16 + 24 + 96
        content = content[:at] + (int.from_bytes(content[at : at + 8], "little") + 3).to_bytes(8, "little") + content[at + 8 :]
    (tmp_path / "a.lmdb").write_bytes(content)
    with LmdbFile(tmp_path / "a.lmdb") as file:
        file.check()
    (tmp_path / "a.lmdb").write_bytes(content[: -3 * 4096])
    with LmdbFile(tmp_path / "a.lmdb") as file, pytest.raises(UserError, match=r"a\.lmdb: damaged \(it ends at byte .* cut short\)"):
        file.check()


def edited(whole, path, name, change):
    shutil.copytree(whole / "store", path)
    content = np.load(path / name)
    np.save(path / name, change(content))
    return path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("split_test.npy", lambda x: x[::-1] - 1, "other molecules than the split 'test'"),
        ("split_test.npy", lambda x: x + 1000, "other molecules than the split 'test'"),
        ("split_test.npy", lambda x: x[:-1], "but the manifest says 5 values of int64"),
        ("split_test.npy", lambda x: x.astype(np.int32), "but the manifest says 5 values of int64"),
        ("source_row.npy", lambda x: x + 1, "other molecules than the split 'test'"),
    ],
)
def test_another_split_than_the_manifests_is_refused(whole, tmp_path, name, change, message):
    """Its name would be printed with the hash of the one that was scored before."""
    store = Store(edited(whole, tmp_path / "s", name, change))
    with pytest.raises(UserError, match=message):
        store.split("test")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("molecules", "7", r"molecules is \"7\", not of type int"),
        ("labels", [{"name": "a", "unit": 3, "kind": "regression"}], r"labels\[0\]\.unit is 3, not of type str"),
        ("labels", [], "statistics of other splits or labels"),
        ("splits", {"../x": {"molecules": 1, "sha256": ""}}, "a split named '../x'"),
        ("splits", {"train": {"molecules": 1, "sha256": "", "more": 1}}, r"splits\.train lacks, or should not have: more"),
        ("failures", -1, "failures: -1 of 51 molecules"),
        ("split", [1], "split is"),
        ("extra", 1, "should not have: extra"),
    ],
)
def test_damaged_manifests_name_the_field(whole, tmp_path, name, value, message):
    path = tmp_path / "s"
    shutil.copytree(whole / "store", path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {name: value}))
    with pytest.raises(UserError, match=rf"manifest\.json: damaged store manifest \(.*{message}"):
        Store(path)
    (path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a readable store manifest"):
        Store(path)


class Records(Dataset):
    def __init__(self, path):
        self.store = Store(path)

    def __len__(self):
        return len(self.store)

    def __getitem__(self, index):
        return self.store.record(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_record_is_named_also_in_a_loaders_process(whole, tmp_path, workers):
    path = tmp_path / "s"
    shutil.copytree(whole / "store", path)
    record = Store(whole / "store").record(17)
    content = (path / RECORDS).read_bytes()
    assert content.count(record) == 1
    (path / RECORDS).write_bytes(content.replace(record, record[:-9] + bytes(x ^ 1 for x in record[-9:])))
    loader = DataLoader(
        Records(path), batch_size=8, num_workers=workers, collate_fn=collate, multiprocessing_context="fork" if workers else None
    )
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{path / RECORDS}, molecule 17: damaged (Error -")
    assert "Traceback" not in str(caught.value)


def test_the_reader_agrees_with_lmdb(tmp_path):
    """Values in leaves and in overflow pages, named tables, several levels, keys there and not there."""
    rng, path = np.random.default_rng(0), tmp_path / "a.lmdb"
    values = {rng.bytes(int(rng.integers(1, 30))): rng.bytes(int(n)) for n in rng.choice([0, 5, 300, 2000, 3000, 9000], size=3000)}
    with lmdb.open(str(path), subdir=False, map_size=1 << 26, max_dbs=2) as environment:
        named = environment.open_db(b"other")
        with environment.begin(write=True) as transaction:
            for name, value in values.items():
                transaction.put(name, value, db=named)
        with environment.begin(write=True) as transaction:
            for name in list(values)[::3]:
                transaction.delete(name, db=named)
    kept = {name: value for i, (name, value) in enumerate(values.items()) if i % 3}
    with LmdbFile(path) as file:
        table = file.table(b"other")
        assert table.depth > 2
        assert dict(file.items(table)) == kept
        assert list(file.keys(table)) == sorted(kept)
        assert all(file.get(name, table) == kept.get(name) for name in values)
        assert all(file.get(name, table) is None for name in (b"", b"\xff" * 40, *(rng.bytes(7) for _ in range(100))))
        file.check()


def test_free_pages_that_the_file_does_not_have_are_told(tmp_path):
    """LMDB would write to them."""
    path = tmp_path / "a.lmdb"
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as environment:
        for change in (lambda t, name: t.put(name, bytes(3000)), lambda t, name: t.delete(name)):
            with environment.begin(write=True) as transaction:
                for number in range(40):
                    change(transaction, b"%03d" % number)
    with LmdbFile(path) as file:
        file.check()
        last, (_, free) = file.last_page, max(file.items(file.free), key=lambda item: len(item[1]))
    content = path.read_bytes()
    at = content.rindex(free) + 8  # after the number of pages, the largest one
    for page, told in ((last + 1, True), (int.from_bytes(free[8:16], "little"), False)):
        path.write_bytes(content[:at] + page.to_bytes(8, "little") + content[at + 8 :])
        with LmdbFile(path) as file, pytest.raises(UserError, match=rf"page {page} ") if told else contextlib.nullcontext():
            file.check()


def test_verification_tells_coordinates_that_are_no_numbers(tmp_path):
    graphs = [random_graph(np.random.default_rng(row), 4) for row in range(3)]
    graphs[1].coordinates[0, 2, 1] = np.nan
    with StoreWriter(tmp_path / "store", REQUEST) as writer:
        writer.add([(row, EncodedMolecule.from_graph(graph, row)) for row, graph in enumerate(graphs)], 3, 3)
        PLAN.finish(writer, 3, {})
    assert list(problems(Store(tmp_path / "store"))) == [f"{tmp_path}/store/{RECORDS}, molecule 1: coordinates that are not finite"]


def test_a_store_is_made_and_read_within_a_limit_of_address_space(tmp_path):
    """And grows its file past the first map."""
    script = """
import resource, sys
import numpy as np
from moleblend_fs.data import partial_store, writer
from tests.data.test_damage import PLAN, results
from moleblend_fs.data.store import Store
from moleblend_fs.data.writer import StoreWriter
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
partial_store.MAP_BYTES = writer.MAP_BYTES = 1 << 16
with StoreWriter(sys.argv[1], {}) as store:
    for start in range(0, 600, 100):
        store.add(results(range(start, start + 100)), start + 100)
    PLAN.finish(store, 600, {})
print(len(Store(sys.argv[1]).records(range(500))))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "500"), done.stderr
    assert (tmp_path / "s" / RECORDS).stat().st_size > 1 << 16
