"""Workers of programs that are no scripts: of somebody else's pool, and of several threads."""

import os
import subprocess
import sys
import threading

from moleblend_fs.data.store import Store
from moleblend_fs.sources.starting_workers import begun

IN_A_POOL = """
import multiprocessing, sys
from pathlib import Path
from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.splits import Splitter
from moleblend_fs.sources.csv_and_smiles import SmilesFile
from moleblend_fs.sources.run import preprocess

def made(name):
    source = SmilesFile(Path("a.smi"), build=BuildOptions(), splitter=Splitter(kind="none"))
    return preprocess(source, Path(name), workers=1, progress=False).molecules

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.apply(made, ["without"]))
    made("here")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.apply(made, ["with"]))
"""


def test_processes_of_a_pool_have_workers(tmp_path):
    """They are daemons, which `multiprocessing` lets start none; and the server that forks is their parent's, where it has one."""
    (tmp_path / "a.smi").write_text("CCO\nCCN\n")
    (tmp_path / "script.py").write_text(IN_A_POOL)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2\n2\n"), done.stderr
    assert [len(Store(tmp_path / name)) for name in ("without", "here", "with")] == [2, 2, 2]


def _answer(connection, source, numbers) -> None:
    connection.send(list(numbers))


def test_threads_that_start_workers_leave_the_program_as_it_was():
    """What is hidden from new processes for a moment is hidden by one thread at a time, or it would stay hidden."""
    main, before = sys.modules["__main__"], os.environ.get("PYTHONSAFEPATH")
    found: list[list[float]] = []

    def work(number: int) -> None:
        for _ in range(5):
            process, connection, _ = begun(_answer, object(), (number, 0.0))
            found.append(connection.recv())
            process.join()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [[float(number), 0.0] for number in range(4) for _ in range(5)]
    assert sys.modules["__main__"] is main
    assert os.environ.get("PYTHONSAFEPATH") == before
