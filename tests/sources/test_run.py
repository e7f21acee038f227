"""Preprocessing as a whole: same store for any number of workers, after kills and interruptions; nothing vanishes."""

import csv
import os
import resource
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import lmdb
import numpy as np
import pytest
from joblib import Parallel, delayed

from moleblend_fs.chem.conformers import ConformerOptions
from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.cli.main import main
from moleblend_fs.data.batch import collate
from moleblend_fs.data.graph import Failure, MolecularGraph
from moleblend_fs.data.record import decode
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import StorePlan
from moleblend_fs.errors import UserError
from moleblend_fs.sources import workers as worker_processes
from moleblend_fs.sources.base import identify
from moleblend_fs.sources.csv_and_smiles import SmilesFile, SmilesRow
from moleblend_fs.sources.qm9 import open_qm9
from moleblend_fs.sources.run import _Reader, preprocess
from moleblend_fs.sources.workers import Chunk, WorkerPool
from tests.sources.hostile_sources import Deadly, Hanging, Hostile, Patient, Raising, Unborn
from tests.support.waiting import until

pytestmark = pytest.mark.cold

LIMIT = 1300
"""Rows that are read: five chunks and a piece of one."""
PREPROCESS = [sys.executable, "-m", "moleblend_fs.cli.main", "preprocess", "qm9", "--limit", str(LIMIT), "--no-progress"]


def smiles_source(path, conformers=0, text="CCO\nC1CC\nCCN\n"):
    path.write_text(text)
    return SmilesFile(path, build=BuildOptions(conformers=ConformerOptions(count=conformers)), splitter=Splitter(kind="none"))


def contents(store):
    """Everything in a store but the names of its folder and input."""
    manifest = store.manifest
    files = {p.name: p.read_bytes() for p in store.path.iterdir() if p.suffix in (".npy", ".csv")}
    return manifest.records_sha256, manifest.splits, manifest.statistics, manifest.failures, manifest.inputs, files


@pytest.fixture(scope="module")
def reference(qm9_sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "store"
    preprocess(open_qm9(str(qm9_sample)), out, limit=LIMIT, progress=False)
    return Store(out)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_make_no_difference(reference, qm9_sample, tmp_path, workers):
    preprocess(open_qm9(str(qm9_sample)), tmp_path / "s", limit=LIMIT, workers=workers, progress=False)
    assert contents(Store(tmp_path / "s")) == contents(reference)


def test_workers_make_no_difference_to_conformers(tmp_path):
    text = "\n".join(["CCO", "c1ccccc1C(=O)NC", "CC(C)CC1CC1", "OC1CCCCC1N"] * 5)
    source = smiles_source(tmp_path / "a.smi", conformers=3, text=text)
    hashes = {preprocess(source, tmp_path / str(n), workers=n, progress=False).records_sha256 for n in (1, 2)}
    assert len(hashes) == 1


def next_row(partial):
    """The row to resume from, as the work file has it (it may be in the middle of being written)."""
    if not (partial / "work.lmdb").exists() or (partial / "work.lmdb").stat().st_size == 0:
        return 0
    with lmdb.open(str(partial / "work.lmdb"), subdir=False, readonly=True, lock=False, max_dbs=3) as environment, environment.begin() as t:
        return int(t.get(b"next_row") or 0)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kind"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGINT)])
def test_killed_and_resumed_equals_uninterrupted(reference, qm9_sample, tmp_path, workers, kind):
    """Killed three times in mid-run; each time it goes on where it stopped, and the end is the same to the byte."""
    out = tmp_path / "s"
    command = [*PREPROCESS, str(qm9_sample), str(out), "--workers", str(workers)]
    reached = 0
    for _ in range(3):
        # Shells start background jobs with Ctrl-C ignored, and children inherit that.
        heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed)
        until(lambda: next_row(tmp_path / "s.partial") > reached or process.poll() is not None)  # noqa: B023  called at once
        now = next_row(tmp_path / "s.partial")
        if kind == signal.SIGKILL:
            process.kill()
        elif process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to workers as well
        _, errors = process.communicate(timeout=300)
        assert "Traceback" not in errors
        if kind == signal.SIGINT and process.returncode:
            assert process.returncode == 130
            assert "interrupted" in errors
        assert now > reached or out.exists()
        if out.exists():
            break
        # It may have stored more before the signal came; the next one is to be interrupted at work, not while it starts.
        reached = next_row(tmp_path / "s.partial")
    assert reached > 0
    if not out.exists():
        with pytest.raises(UserError, match="is unfinished"):
            Store(out)
        subprocess.run(command, check=True, capture_output=True)
    assert contents(Store(out)) == contents(reference)
    assert not (tmp_path / "s.partial").exists()
    # Workers of killed parents are gone.
    until(lambda: not [p for p in os.listdir("/proc") if p.isdigit() and str(out) in _arguments(p)])


def _arguments(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as stream:
            return stream.read()
    except OSError:
        return ""


def test_resuming_with_other_options_or_input_is_refused(qm9_sample, tmp_path, monkeypatch):
    source = open_qm9(str(qm9_sample))

    class Stop(Exception):
        pass

    def two_chunks(reader, size):
        yield from islice(whole(reader, size), 2)
        raise Stop

    whole = _Reader.chunks
    monkeypatch.setattr(_Reader, "chunks", two_chunks)
    with pytest.raises(Stop):
        preprocess(source, tmp_path / "s", limit=LIMIT, progress=False)
    monkeypatch.undo()
    assert next_row(tmp_path / "s.partial") == 512  # what was read before is in
    with pytest.raises(UserError, match="other options or inputs"):
        preprocess(open_qm9(str(qm9_sample), hydrogens=False), tmp_path / "s", limit=LIMIT, progress=False)
    with pytest.raises(UserError, match="other options or inputs"):
        preprocess(open_qm9(str(qm9_sample)), tmp_path / "s", limit=700, progress=False)
    preprocess(open_qm9(str(qm9_sample)), tmp_path / "s", limit=LIMIT, progress=False)


def failed_rows(store):
    with open(store / "failures.csv") as stream:
        return {int(line["row"]): line["reason"] for line in csv.DictReader(stream)}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_that_kills_its_process_costs_itself_alone(tmp_path, workers):
    manifest = preprocess(Deadly(), tmp_path / "s", workers=workers, progress=False)
    failed = failed_rows(tmp_path / "s")
    assert set(failed) == set(Deadly.deeds)
    for row, how in ((0, "SIGKILL"), (17, "SIGSEGV"), (18, "SIGSEGV"), (150, "exit code 3"), (299, "SIGKILL")):
        assert failed[row] == f"the process that worked on it died ({how}), and so did a second one"
    assert Store(tmp_path / "s").source_row.tolist() == [row for row in range(300) if row not in failed]
    assert (manifest.molecules, manifest.failures) == (295, 5)


def test_processes_killed_from_outside_cost_nothing(tmp_path):
    """While they work or wait, as the system does when memory is short."""
    rows = []
    with WorkerPool(Hostile(), 2) as pool:
        chunks = (Chunk([(i, i) for i in range(first, first + 10)], first + 10, first + 10) for first in range(0, 300, 10))
        for number, (_, results) in enumerate(pool.results(chunks)):
            if number in (3, 4, 20):
                os.kill(pool._workers[number % 2].process.pid, signal.SIGKILL)
            rows += results
    assert [row for row, _ in rows] == list(range(300))
    assert not [result for _, result in rows if isinstance(result, Failure)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_that_hangs_costs_itself_alone(tmp_path, workers):
    preprocess(Hanging(), tmp_path / "s", workers=workers, row_timeout=4, progress=False)
    reason = "took more than 4 s; see --row-timeout"
    assert failed_rows(tmp_path / "s") == {5: reason, 260: reason}


def test_a_row_that_takes_long_does_not_hold_up_the_others(tmp_path):
    manifest = preprocess(Patient(tmp_path / "mark"), tmp_path / "s", workers=2, row_timeout=30, progress=False)
    assert manifest.failures == 0
    assert Store(tmp_path / "s").source_row.tolist() == list(range(300))


def test_what_waits_for_a_row_is_bounded(tmp_path, monkeypatch):
    """Few bytes of records: the row that the first one waits for is never read."""
    monkeypatch.setattr(worker_processes, "HELD_BYTES", 1000)
    preprocess(Patient(tmp_path / "mark"), tmp_path / "s", workers=2, row_timeout=4, progress=False)
    assert failed_rows(tmp_path / "s") == {0: "took more than 4 s; see --row-timeout"}


def test_whatever_a_row_raises_is_its_failure(tmp_path):
    preprocess(Raising(), tmp_path / "s", progress=False)
    failed = failed_rows(tmp_path / "s")
    assert set(failed) == set(Raising.deeds)
    assert failed[1] == "SystemError: error return without exception set"
    assert failed[2] == "not enough memory for this row"
    assert failed[3].startswith("RecursionError: ")
    assert failed[4] == "SystemExit: 1"
    assert failed[5] == "a message"
    assert failed[6] == "OSError: two lines ?"
    assert failed[7] == "IndexError: list index out of range"


def test_processes_that_cannot_begin_end_the_run_with_a_message(tmp_path):
    with pytest.raises(UserError, match=r"worker processes die before they have done anything \(exit code 7\); what was stored is kept"):
        preprocess(Unborn(), tmp_path / "s", progress=False)


def test_workers_of_joblib_have_workers(tmp_path):
    """As scikit-learn's searches with n_jobs start them; a worker's own processes did not know the way to begin that it told them."""
    (tmp_path / "in.csv").write_text("smiles\nC\nCC\n")
    words = [["preprocess", "csv", str(tmp_path / "in.csv"), str(tmp_path / name), "--workers", "1", "--no-progress"] for name in "ab"]
    assert Parallel(n_jobs=2, backend="loky")(delayed(main)(each) for each in words) == [0, 0]
    assert [len(Store(tmp_path / name)) for name in "ab"] == [2, 2]


def test_a_script_without_a_guard_for_its_main_module(tmp_path):
    """Worker processes do not run the script again."""
    (tmp_path / "a.smi").write_text("CCO\nCCN\n")
    script = tmp_path / "script.py"
    script.write_text(
        "from moleblend_fs.chem.smiles_to_graph import BuildOptions\nfrom moleblend_fs.data.splits import Splitter\n"
        "from moleblend_fs.sources.run import preprocess\nfrom moleblend_fs.sources.csv_and_smiles import SmilesFile\n"
        "from pathlib import Path\n"
        "source = SmilesFile(Path('a.smi'), build=BuildOptions(), splitter=Splitter(kind='none'))\n"
        "print(preprocess(source, 'store', progress=False).molecules)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_characters_that_no_smiles_has_are_failures_of_their_rows(tmp_path):
    """RDKit's message about some of them was cut within one, which ended the run."""
    bad = ("C)" + "C" * 43 + "\u2013", "\uff23", "C\u00e9" * 300)
    preprocess(smiles_source(tmp_path / "a.smi", text="\n".join(["CCO", *bad, "CCC"])), tmp_path / "s", progress=False)
    failed = failed_rows(tmp_path / "s")
    assert set(failed) == {1, 2, 3}
    assert all(" is not ASCII" in reason for reason in failed.values())
    assert Store(tmp_path / "s").source_row.tolist() == [0, 4]


def test_molecules_above_the_limit_of_atoms_are_listed(tmp_path):
    source = smiles_source(tmp_path / "a.smi", text="CCO\nCCCCCC\n")
    source.build = BuildOptions(max_atoms=5)
    preprocess(source, tmp_path / "s", progress=False)
    assert failed_rows(tmp_path / "s") == {1: "6 atoms; a molecule must have 1 to 5"}
    assert source.options()["max_atoms"] == 5
    source.build = BuildOptions(max_atoms=5, hydrogens=True)
    assert source.parse(SmilesRow("CCO", [])).reason == "9 atoms; a molecule must have 1 to 5"


def half_made(source, out, monkeypatch, seconds=10.0):
    """What a run leaves behind that stored its two molecules and was stopped before it was done, after so much work."""
    with monkeypatch.context() as patch:
        patch.setattr(StorePlan, "finish", lambda self, writer, *_: (_ for _ in ()).throw(UserError("stopped")))
        with pytest.raises(UserError, match="stopped"):
            preprocess(source, out, progress=False)
    with lmdb.open(f"{out}.partial/work.lmdb", subdir=False, max_dbs=3) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"seconds", str(seconds).encode())


def test_a_mended_file_is_read_anew_where_nothing_worth_keeping_is_lost(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "a.smi", tmp_path / "s"
    with pytest.raises(UserError, match="no molecule could be read"):
        preprocess(smiles_source(path, text="C1CC\nfoo\n"), out, progress=False)
    half_made(smiles_source(path, text="CCO\nCCN\n"), out, monkeypatch)
    assert capsys.readouterr().err == f"{out}.partial holds no molecule: begun anew\n"
    manifest = preprocess(smiles_source(path, text="CCO\nCCC\nCCCC\n"), out, progress=False)
    assert (manifest.molecules, manifest.failures) == (3, 0)
    assert capsys.readouterr().err == f"a.smi changed since {out}.partial was begun, which holds 2 molecules of before: begun anew\n"
    assert [decode(record)[1].smiles for record in map(Store(out).record, range(3))] == ["CCO", "CCC", "CCCC"]


def test_much_work_is_kept_with_a_word_on_what_to_do(tmp_path, monkeypatch):
    path, out = tmp_path / "a.smi", tmp_path / "s"
    before = "CCO\nCCN\n"
    half_made(smiles_source(path, text=before), out, monkeypatch, seconds=1200)
    with pytest.raises(
        UserError, match=r"a\.smi changed since .* 2 molecules \(20 minutes of work\).*Put that back to resume, delete the folder"
    ):
        preprocess(smiles_source(path, text="CCO\n"), out, progress=False)
    other = smiles_source(path, text=before)
    other.build = BuildOptions(hydrogens=True)
    with pytest.raises(UserError, match=r'other options or inputs \(options: .*"none".* then, .*"explicit".* now\).*delete it to begin'):
        preprocess(other, out, progress=False)
    assert preprocess(smiles_source(path, text=before), out, progress=False).molecules == 2


def test_a_folder_of_the_users_is_not_taken_for_a_half_made_store(tmp_path):
    (tmp_path / "s.partial").mkdir()
    (tmp_path / "s.partial" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"s\.partial is no half-made store.*'notes\.txt'"):
        preprocess(smiles_source(tmp_path / "a.smi"), tmp_path / "s", progress=False)
    assert [path.name for path in (tmp_path / "s.partial").iterdir()] == ["notes.txt"]


def test_full_disk_is_reported_and_mended(reference, qm9_sample, tmp_path):
    """A limit on file sizes stands for a full disk: a message, exit code 2, and afterwards the same store as ever."""
    command = [*PREPROCESS, str(qm9_sample), str(tmp_path / "s"), "--workers", "1"]
    limit = 1_000_000
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
    assert full.returncode == 2
    assert "is the disk full?" in full.stderr
    assert "Traceback" not in full.stderr
    assert 0 < next_row(tmp_path / "s.partial") < LIMIT
    subprocess.run(command, check=True, capture_output=True)
    assert contents(Store(tmp_path / "s")) == contents(reference)


def test_failures_and_notes_are_listed_and_counted(tmp_path):
    impossible = "C[C@]12C[C@@]1(C)C2"
    source = smiles_source(tmp_path / "a.smi", conformers=2, text=f"CCO\nC1CC\n{impossible}\nCCN\n")
    manifest = preprocess(source, tmp_path / "s", progress=False)
    assert (manifest.molecules, manifest.failures, manifest.molecules_with_3d, manifest.conformers) == (3, 2, 2, 4)
    with open(tmp_path / "s" / "failures.csv") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["row", "input", "reason"]
    assert rows[1][:2] == ["1", "C1CC"]
    assert rows[2][:2] == ["2", impossible]
    assert rows[2][2].startswith("no conformer:")
    batch = collate(Store(tmp_path / "s").records(range(3)))
    assert batch.has_coordinates.tolist() == [True, False, True]


def test_every_row_is_a_molecule_or_a_failure(shared, tmp_path):
    from moleblend_fs.sources.moleculenet import open_moleculenet

    path = shared / "data" / "moleculenet" / "tox21.csv.gz"
    source = open_moleculenet(path, set_name=None, build=BuildOptions(), splitter=Splitter(kind="random"))
    manifest = preprocess(source, tmp_path / "s", limit=1600, progress=False)
    with open(tmp_path / "s" / "failures.csv") as stream:
        failed = [int(row["row"]) for row in csv.DictReader(stream)]
    stored = Store(tmp_path / "s").source_row.tolist()
    assert failed  # Tox21 has molecules that RDKit refuses
    assert sorted(stored + failed) == list(range(1600))
    assert manifest.molecules + manifest.failures == 1600


def test_odd_molecules_go_through(tmp_path):
    """Single atoms, salts, dative bonds, chains over 254 bonds, 260 atoms: stored and collated as they are."""
    odd = ["C", "[Na+].[Cl-]", "Cl[Pt]<-N", "C" * 260, "*", "CC.CC.O"]
    source = smiles_source(tmp_path / "a.smi", text="\n".join(odd))
    preprocess(source, tmp_path / "s", progress=False)
    store = Store(tmp_path / "s")
    assert store.num_atoms.tolist() == [1, 2, 3, 260, 1, 5]
    batch = collate(store.records(range(6)))
    spd = batch.spd.split((batch.num_atoms**2).tolist())
    assert spd[0].tolist() == [0]
    assert spd[1].tolist() == [0, 255, 255, 0]
    assert spd[3].max() == 254
    assert spd[5].view(5, 5)[0].tolist() == [0, 1, 255, 255, 255]
    hops = batch.path_bonds.split((batch.num_atoms**2).tolist())
    assert not hops[1].any()
    for i, smiles in enumerate(odd):
        row, graph = decode(store.record(i))
        assert (row, graph.smiles) == (i, smiles)


def test_nothing_readable_is_an_error_with_the_reasons(tmp_path):
    source = smiles_source(tmp_path / "a.smi", text="C1CC\nfoo\n")
    with pytest.raises(UserError, match=r"no molecule could be read \(2 failures\).*failures\.csv"):
        preprocess(source, tmp_path / "s", progress=False)


def test_inputs_are_identified_by_content(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text(folder)
    names = identify([tmp_path / "a" / "x", tmp_path / "b" / "x"])
    assert list(names) == ["a/x", "b/x"]
    assert names["a/x"] == "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def test_source_is_small_when_pickled(qm9_sample, shared):
    import pickle

    from moleblend_fs.sources.pcqm4mv2 import PCQM4Mv2

    for source in (open_qm9(str(qm9_sample)), PCQM4Mv2(shared / "data" / "pcqm4mv2")):
        assert len(pickle.dumps(source)) < 4000
        graph = pickle.loads(pickle.dumps(source)).parse(next(source.rows(0))[1])
        assert isinstance(graph, MolecularGraph)
        assert np.isfinite(graph.coordinates).all()


def test_called_in_the_folder_that_holds_a_clone(tmp_path):
    """A folder of the package's name, as a clone is, would be found as a package without content."""
    (tmp_path / "moleblend_fs" / "docs").mkdir(parents=True)
    (tmp_path / "mine.csv").write_text("smiles,y\nCCO,1\nCC,2\n")
    command = [str(Path(sys.executable).parent / "moleblend"), "preprocess", "csv", "mine.csv", "store", "--label", "y"]
    done = subprocess.run([*command, "--split", "random"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "2 rows read = 2 stored" in done.stdout
