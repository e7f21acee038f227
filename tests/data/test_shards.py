"""Stores made in shards: the same as made in one go, also after interruptions; and what a merge refuses."""

import json
import shutil
from types import SimpleNamespace

import lmdb
import pytest

from moleblend_fs.chem.conformers import ConformerOptions
from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.cli.main import main
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import SHARD_BLOCK, ShardNumber, merge_shards, shards_folder
from moleblend_fs.errors import UserError
from moleblend_fs.sources.csv_and_smiles import SmilesFile
from moleblend_fs.sources.qm9 import open_qm9
from moleblend_fs.sources.run import preprocess, preprocess_shard

IMPOSSIBLE = "C[C@]12C[C@@]1(C)C2"
"""Cannot be embedded: gives a molecule and a note on it."""


def contents(store):
    """All that is in a store; only the names of its files are not compared."""
    manifest = json.loads((store.path / "manifest.json").read_text())
    del manifest["records_bytes"]  # pages of the record file, filled in another rhythm
    return manifest, {p.name: p.read_bytes() for p in store.path.iterdir() if p.suffix in (".npy", ".csv")}


def smiles_file(path, rows=1000, conformers=0, split="random"):
    """Rows with blank lines, failures and, with conformers, notes; enough for several blocks."""
    lines = ["CCO", "", "C1CC", "CC(C)N", "# left out", "OCC", "C" * 3, "c1ccccc1"]
    text = [
        IMPOSSIBLE if conformers and i % 401 == 0 else lines[i % 8] + "C" * (i % 5) * (lines[i % 8] not in ("", "C1CC"))
        for i in range(rows)
    ]
    path.write_text("\n".join(text))
    scaffold = "chiral" if split == "scaffold" else None
    build = BuildOptions(conformers=ConformerOptions(count=conformers), scaffold=scaffold)
    return SmilesFile(path, build=build, splitter=Splitter(kind=split))


def in_shards(source, out, count, **options):
    return [preprocess_shard(source, out, ShardNumber(i, count), progress=False, **options) for i in range(count)]


@pytest.mark.parametrize("split", ["random", "scaffold"])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_merged_store_is_the_unsharded_one(tmp_path, split, count):
    """Also where there are more shards than blocks of rows."""
    source = smiles_file(tmp_path / "a.smi", split=split)
    preprocess(source, tmp_path / "whole", progress=False)
    infos = in_shards(source, tmp_path / "merged", count)
    assert sum(info.rows == 0 for info in infos) == max(0, count - -(-1000 // SHARD_BLOCK))
    manifest = merge_shards(tmp_path / "merged")
    whole = Store(tmp_path / "whole")
    assert contents(Store(tmp_path / "merged")) == contents(whole)
    assert manifest.records_sha256 == whole.manifest.records_sha256
    assert manifest.failures == sum(info.failures for info in infos) == 125
    assert not shards_folder(tmp_path / "merged").exists()


def test_molecules_with_notes(tmp_path):
    source = smiles_file(tmp_path / "a.smi", rows=300, conformers=1, split="none")
    preprocess(source, tmp_path / "whole", progress=False)
    in_shards(source, tmp_path / "merged", 2)
    merge_shards(tmp_path / "merged")
    assert "no conformer:" in (tmp_path / "merged" / "failures.csv").read_text()
    assert contents(Store(tmp_path / "merged")) == contents(Store(tmp_path / "whole"))


def test_command_line_with_workers_and_limit(qm9_sample, tmp_path, capsys):
    def run(*words):
        return main([*map(str, words)])

    common = ("--limit", 900, "--no-progress")
    assert run("preprocess", "qm9", qm9_sample, tmp_path / "whole", *common, "--workers", 1) == 0
    for i in (1, 0):
        assert run("preprocess", "qm9", qm9_sample, tmp_path / "s", *common, "--workers", 2, "--shard", f"{i}/2") == 0
    assert "shard 0/2 with 512 molecules and 0 failures from 512 of 900 rows" in capsys.readouterr().out
    assert run("merge", tmp_path / "s", "--keep-shards") == 0
    assert "900 molecules" in capsys.readouterr().out
    assert contents(Store(tmp_path / "s")) == contents(Store(tmp_path / "whole"))
    assert shards_folder(tmp_path / "s").is_dir()
    assert run("merge", tmp_path / "s") == 2
    assert "exists already" in capsys.readouterr().err


class Stop(Exception):
    pass


def stopping_at(monkeypatch, source, last):
    """The source, ending with an exception at a row."""
    rows = type(source).rows

    def some_rows(source, start):
        for row, raw in rows(source, start):
            if row == last:
                raise Stop
            yield row, raw

    monkeypatch.setattr(type(source), "rows", some_rows)
    return source


def test_interrupted_shard_goes_on(qm9_sample, tmp_path, monkeypatch):
    """The count of the source's rows is right although a resumed run does not read them from the beginning."""
    preprocess(open_qm9(str(qm9_sample)), tmp_path / "whole", limit=1500, progress=False)
    out, number = tmp_path / "merged", ShardNumber(1, 2)
    with monkeypatch.context() as patch:
        source = stopping_at(patch, open_qm9(str(qm9_sample)), 1100)
        with pytest.raises(Stop):
            preprocess_shard(source, out, number, limit=1500, progress=False)
    assert [p.name for p in shards_folder(out).iterdir()] == ["1-of-2.partial"]
    infos = in_shards(open_qm9(str(qm9_sample)), out, 2, limit=1500)
    assert [(info.rows, info.source_rows) for info in infos] == [(768, 1500), (732, 1500)]
    merge_shards(out)
    assert contents(Store(out)) == contents(Store(tmp_path / "whole"))


def test_interrupted_merge_goes_on(tmp_path, monkeypatch):
    from moleblend_fs.data import store_parts as shards

    monkeypatch.setattr(shards, "MERGE_CHUNK", 100)
    source = smiles_file(tmp_path / "a.smi", split="scaffold")
    preprocess(source, tmp_path / "whole", progress=False)
    in_shards(source, tmp_path / "merged", 3)
    add = shards.StoreWriter.add

    def stop_later(writer, results, next_row, rows_read=0):
        if next_row > 600:
            raise Stop
        add(writer, results, next_row, rows_read)

    with monkeypatch.context() as patch:
        patch.setattr(shards.StoreWriter, "add", stop_later)
        with pytest.raises(Stop):
            merge_shards(tmp_path / "merged")
    with shards.StoreWriter(tmp_path / "merged", json.loads(_request(tmp_path / "merged.partial"))) as writer:
        assert 0 < writer.next_row <= 600
    merge_shards(tmp_path / "merged")
    assert contents(Store(tmp_path / "merged")) == contents(Store(tmp_path / "whole"))


def _request(partial):
    with lmdb.open(str(partial / "work.lmdb"), subdir=False, readonly=True, lock=False, max_dbs=3) as tables, tables.begin() as transaction:
        return transaction.get(b"request")


@pytest.fixture
def made(tmp_path):
    """Three shards of a.smi; `folder` is where they lie."""
    out = tmp_path / "s"
    in_shards(smiles_file(tmp_path / "a.smi"), out, 3)
    return SimpleNamespace(out=out, folder=shards_folder(out), tmp=tmp_path)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_missing_and_unfinished_shards_are_named(made):
    shutil.rmtree(made.folder / "0-of-3")
    (made.folder / "2-of-3").rename(made.folder / "2-of-3.partial")
    with pytest.raises(UserError, match=r"2 of 3 shards are missing or unfinished \(0/3, 2/3\)"):
        merge_shards(made.out)
    assert not made.out.exists()


def test_shards_of_another_division_are_refused(made):
    preprocess_shard(smiles_file(made.tmp / "a.smi"), made.out, ShardNumber(0, 2), progress=False)
    with pytest.raises(UserError, match="different number"):
        merge_shards(made.out)


@pytest.mark.parametrize("count", [2, 3])
def test_a_copy_of_another_shard_is_refused(tmp_path, count):
    """Of the same size, it has as many rows as the one that it stands for; molecules were lost, and others were there twice."""
    in_shards(smiles_file(tmp_path / "a.smi", rows=count * SHARD_BLOCK), tmp_path / "s", count)
    folder = shards_folder(tmp_path / "s")
    shutil.move(folder / f"1-of-{count}", tmp_path / "right")
    shutil.copytree(folder / f"0-of-{count}", folder / f"1-of-{count}")
    with pytest.raises(UserError, match=f"1-of-{count}: holds row 0, which is not of shard 1/{count}: it was copied or renamed"):
        merge_shards(tmp_path / "s")
    assert sorted(path.name for path in folder.iterdir()) == [f"{i}-of-{count}" for i in range(count)], "no shard is deleted"
    shutil.rmtree(folder / f"1-of-{count}")
    shutil.move(tmp_path / "right", folder / f"1-of-{count}")
    assert merge_shards(tmp_path / "s").molecules == Store(tmp_path / "s").manifest.molecules > 0


def test_a_shard_beyond_the_last_is_refused(made):
    """It would be passed over, and deleted with the others."""
    shutil.copytree(made.folder / "0-of-3", made.folder / "3-of-3")
    with pytest.raises(UserError, match="3-of-3: there are shards 0 to 2"):
        merge_shards(made.out)
    assert (made.folder / "3-of-3").is_dir()


def test_nothing_stays_of_a_shard_whose_records_are_others(made, tmp_path):
    """The shard that is made again has the same number of molecules, and the merge went on behind the damaged ones."""
    preprocess(smiles_file(tmp_path / "a.smi"), tmp_path / "whole", progress=False)
    shutil.copytree(made.folder / "1-of-3", tmp_path / "right")
    damage_a_record(made.folder / "1-of-3" / "work.lmdb")
    with pytest.raises(UserError, match=r"shard 1 says .* but holds"):
        merge_shards(made.out)
    shutil.rmtree(made.folder / "1-of-3")
    shutil.move(tmp_path / "right", made.folder / "1-of-3")
    merge_shards(made.out)
    assert contents(Store(made.out)) == contents(Store(tmp_path / "whole"))


def damage_a_record(tables):
    """Another molecule's bytes in the place of the first one's."""
    with lmdb.open(str(tables), subdir=False, max_dbs=3) as environment:
        records = environment.open_db(b"records")
        with environment.begin(db=records, write=True) as transaction, transaction.cursor() as cursor:
            (first, value), *others = list(cursor)
            transaction.put(first, next(other for _, other in others if other != value))


def test_a_source_that_changed_is_refused(made):
    shutil.rmtree(made.folder / "1-of-3")
    other = smiles_file(made.tmp / "a.smi", rows=1001)
    preprocess_shard(other, made.out, ShardNumber(1, 3), progress=False)
    with pytest.raises(UserError, match="shards 0 and 1 have different inputs"):
        merge_shards(made.out)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("source_rows", 751, "shard 0 saw 750 rows in the source, shard 1 751"),
        ("rows", 1, "the source has 750 rows, the shards hold 559 together"),
        ("molecules", 1, "shard 1 says .* but holds"),
        ("records_sha256", "0", "shard 1 says .* but holds"),
        ("plan", {}, "not a readable shard"),
    ],
)
def test_counts_that_disagree_are_refused(made, name, value, message):
    change(made.folder / "1-of-3" / "shard.json", **{name: value})
    with pytest.raises(UserError, match=message):
        merge_shards(made.out)
    assert not made.out.exists()


@pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "0/0", "a/b"])
def test_bad_shard_numbers(qm9_sample, tmp_path, capsys, text):
    assert main(["preprocess", "qm9", str(qm9_sample), str(tmp_path / "s"), f"--shard={text}"]) == 2
    assert "--shard must be I/N" in capsys.readouterr().err
