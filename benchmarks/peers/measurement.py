"""Measuring the programs, and keeping what is finished."""

import csv
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, RDLogger

from benchmarks.harness import Row, commit, row
from benchmarks.light_installation import built, install, size
from benchmarks.peer_environments import environment, install_pinned, place_of, requirements
from benchmarks.peers.programs import CHEMPROP_SPLIT, HERE, OURS, Program
from benchmarks.peers.serving import DONE, SMILES, SPLIT, VALUE, read
from benchmarks.predict import untrained
from moleblend_fs.files import whole_file

REPEATS = {1: 30, 100: 5}
"""Molecules of a call -> how often it is timed; once for more."""
STARTS = 3
CHEMPROP_NAMES = {"train": "train", "valid": "val", "test": "test"}
TARGETS = {("ours-small", 1): "< 50", ("ours-small", 100_000): ">= 1,000"}
"""Program and molecules -> milliseconds of one, molecules/s of many."""


class Measured:
    """What is known of the programs; each part is measured once at a commit."""

    def __init__(self, folder: Path, esol: Path, molecules: Path, cores: int, programs: dict[str, Program]):
        self.programs, self._folder = programs, folder.absolute()
        self._cores = sorted(os.sched_getaffinity(0))[:cores]
        self._commit = commit()
        self._work = self._folder / "measured" / f"{self._commit or 'none'}-{len(self._cores)}"
        self._work.mkdir(parents=True, exist_ok=True)
        self._case = f"{len(self._cores)} core{'s' if len(self._cores) > 1 else ''}"
        self._table, self._one, self._smiles = self._work / "esol.csv", self._work / "one.csv", self._work / "molecules.txt"
        split_table(esol, self._table)
        self._one.write_text(f"{SMILES}\nCC(=O)Oc1ccccc1C(=O)O\n")
        self._smiles.write_text("\n".join(readable(molecules)) + "\n")

    def installed(self, name: str) -> list[Row]:
        """Its environment, and how large it is."""

        def measure() -> list[Row]:
            program, place = self.programs[name], self._environment(name)
            if program.requirements:
                install_pinned(place, requirements(program.requirements))
            else:
                with tempfile.TemporaryDirectory() as folder:
                    install(place, built(Path(folder)), "chem,report")
            return [self._row(name, "installed", "MB", [size(place) / 1e6])]

        if not self.programs[name].requirements and name != OURS and OURS in self.programs:
            return []  # the same environment
        return self._kept(f"installed-{name}", measure)

    def learned(self, name: str) -> list[Row]:
        """Train, score and leave the model."""

        def measure() -> list[Row]:
            program, out = self.programs[name], self._out(name)
            if out.exists():
                shutil.rmtree(out)  # of a run that was stopped: ours, in the folder of finished parts
            if not program.train:
                untrained(out)
                return []
            wall, busy, peak = self._run(name, program.train)
            assert program.scored is not None
            errors = np.array(program.scored(out, self._table)) - np.array(read(self._table)["test"][1])
            return [
                self._row(name, "ESOL to a score, CPU time", "CPU s", [busy]),
                self._row(name, "ESOL to a score", "s", [wall]),
                self._row(name, "ESOL to a score, peak memory of a process", "GiB", [peak]),
                self._row(name, "ESOL, test RMSE", "log(mol/l)", [math.sqrt(float((errors**2).mean()))]),
            ]

        return self._kept(f"learned-{name}", measure)

    def compared(self) -> list[Row]:
        """CPU seconds of others to a score, over ours."""
        taken = {name: next((r.p50 for r in self.learned(name) if r.metric == "ESOL to a score, CPU time"), None) for name in self.programs}
        ours = taken.get(OURS)
        if ours is None:
            return []
        given = {name: seconds for name, seconds in taken.items() if seconds is not None and name != OURS}
        return [
            self._row(name, "ESOL to a score, CPU time / that of moleblend-fs with 2 members", "x", [s / ours]) for name, s in given.items()
        ]

    def started(self, name: str) -> list[Row]:
        """From nothing to the prediction of one molecule."""

        def measure() -> list[Row]:
            program = self.programs[name]
            taken = [self._run(name, program.start, said=self._question(1)) for _ in range(1 + STARTS)][1:]
            wall, busy, _ = zip(*taken, strict=True)
            return [
                self._row(name, "start to first prediction", "s", wall),
                self._row(name, "start to first prediction, CPU time", "CPU s", busy),
            ]

        return self._kept(f"started-{name}", measure) if self.programs[name].start else []

    def predicted(self, count: int) -> list[Row]:
        """Predictions of so many molecules from SMILES, models in memory; all programs in turn."""

        def measure() -> list[Row]:
            repeats, answers = REPEATS.get(count, 1), {name: list[dict[str, Any]]() for name in self.programs}
            with ExitStack() as stack:
                serving = {name: stack.enter_context(self._serving(name)) for name in self.programs}
                for turn in range(repeats + 1):
                    for name, process in serving.items():
                        found = ask(process, self._question(min(count, 100) if turn == 0 else count))
                        if turn:
                            answers[name].append(found)
                peaks = {name: peak_of(process.pid) for name, process in serving.items()}
            rows: list[Row] = []
            for name, found in answers.items():
                wall, busy = ([each[key] for each in found] for key in ("wall", "cpu"))
                assert all(each["finite"] == count for each in found), f"{name}: {found}"
                target, what = TARGETS.get((name, count), ""), f"{count:,} molecule{'s' * (count > 1)} from SMILES"
                if count == 1:
                    rows.append(self._row(name, what, "ms", [1e3 * s for s in wall], target=target))
                    rows.append(self._row(name, f"{what}, CPU time", "CPU ms", [1e3 * s for s in busy]))
                else:
                    rows.append(self._row(name, what, "molecules/s", [count / s for s in wall], target=target))
                    rows.append(self._row(name, f"{what}, of CPU time", "molecules/CPU s", [count / s for s in busy]))
                if count == max([*REPEATS, count]):
                    rows.append(self._row(name, f"{what}, peak memory", "GiB", [peaks[name]]))
            return rows

        return self._kept(f"predicted-{count}-{'-'.join(self.programs)}", measure)

    def _kept(self, name: str, measure: Callable[[], list[Row]]) -> list[Row]:
        """Rows of a part, from its file where this commit has it."""
        path = self._work / f"{name}.json"
        if not path.exists():
            print(f"peers: {name}", file=sys.stderr, flush=True)
            rows = measure()
            with whole_file(path) as stream:
                json.dump([asdict(each) for each in rows], stream)
        return [Row(**each) for each in json.loads(path.read_text())]

    def _row(self, name: str, metric: str, unit: str, values: Sequence[float], target: str = "") -> Row:
        return row("peers", f"{self.programs[name].title}, {self._case}", metric, unit, values, target=target)

    def _environment(self, name: str) -> Path:
        return place_of(self._folder, self.programs[name].requirements or OURS)

    def _out(self, name: str) -> Path:
        return self._work / "models" / name

    def _words(self, name: str, command: Sequence[str]) -> list[str]:
        places = {"bin": self._environment(name) / "bin", "here": HERE, "table": self._table, "one": self._one, "out": self._out(name)}
        return [word.format(**places) for word in command]

    def _question(self, count: int) -> str:
        return json.dumps({"smiles": str(self._smiles), "count": count}) + "\n"

    def _started_on_cores(self) -> dict[str, Any]:
        """How programs are started: on the chosen cores, a thread on each, away from this repository."""
        return {"cwd": self._work, "env": environment(len(self._cores)), "preexec_fn": partial(os.sched_setaffinity, 0, self._cores)}

    def _run(self, name: str, command: Sequence[str], said: str = "") -> tuple[float, float, float]:
        """Seconds of the clock and of the processor, and the largest process's GiB, of a command."""
        log = self._work / f"{name}.log"
        begin = time.perf_counter()
        with (
            open(log, "w") as stream,
            subprocess.Popen(
                self._words(name, command), stdin=subprocess.PIPE, stdout=stream, stderr=stream, text=True, **self._started_on_cores()
            ) as process,
        ):
            assert process.stdin is not None
            if "serve" in command:  # others read no standard input
                process.stdin.write(said)
            process.stdin.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(map(str, process.args))} ended with {process.returncode}:\n{log.read_text()[-3000:]}")  # type: ignore[arg-type]
        return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20

    def _serving(self, name: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self._words(name, self.programs[name].serve),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            **self._started_on_cores(),
        )
        answer_of(process)
        return process


def ask(process: "subprocess.Popen[str]", question: str) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(question)
    process.stdin.flush()
    return answer_of(process)


def answer_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The next answer, whatever else is printed before."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(DONE):
            return json.loads(line.removeprefix(DONE))
    raise RuntimeError(f"{process.args} ended with {process.wait()}")


def peak_of(pid: int) -> float:
    """GiB that a process had at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def split_table(source: Path, path: Path) -> None:
    """SMILES, values and splits, 80 : 10 : 10 at random; of repeated SMILES the first."""
    with gzip.open(source, "rt", newline="") as stream:
        values = {line[SMILES]: line[VALUE] for line in reversed(list(csv.DictReader(stream)))}
    order, tenth = np.random.default_rng(0).permutation(len(values)), len(values) // 10
    split = np.array(["train"] * len(values), dtype=object)
    split[order[:tenth]], split[order[tenth : 2 * tenth]] = "test", "valid"
    with whole_file(path) as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow([SMILES, VALUE, SPLIT, CHEMPROP_SPLIT])
        table.writerows([*item, part, CHEMPROP_NAMES[part]] for item, part in zip(values.items(), split, strict=True))


def readable(path: Path) -> list[str]:
    """SMILES of a table that RDKit reads: all programs are to predict all of them."""
    RDLogger.DisableLog("rdApp.*")
    with gzip.open(path, "rt", newline="") as stream:
        return [line[SMILES] for line in csv.DictReader(stream) if Chem.MolFromSmiles(line[SMILES]) is not None]
