"""What the programs of this folder share: they answer, one line each, how long predictions take. Imports nothing but Python's own."""

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

SMILES, VALUE, SPLIT = "smiles", "logSolubility", "split"
"""Columns of the table that is learned."""
DONE = "<<answer>>"
"""Begins each line that is an answer; libraries print others."""


def read(path: str | Path) -> dict[str, tuple[list[str], list[float]]]:
    """Split -> SMILES and values of a table."""
    parts: dict[str, tuple[list[str], list[float]]] = {"train": ([], []), "valid": ([], []), "test": ([], [])}
    with open(path, newline="") as stream:
        for line in csv.DictReader(stream):
            parts[line[SPLIT]][0].append(line[SMILES])
            parts[line[SPLIT]][1].append(float(line[VALUE]))
    return parts


def write(path: Path, values: Sequence[float]) -> None:
    """Predictions of the test molecules."""
    path.write_text(json.dumps([float(value) for value in values]))


def processor_seconds() -> float:
    """Of this process and of all below it, also of those that live on and of those that were waited for."""
    parent, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parent[int(path.parent.name)], spent[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family = [os.getpid()]
    for process in family:
        family += [child for child, above in parent.items() if above == process]
    return sum(spent[process] for process in family) / os.sysconf("SC_CLK_TCK")


def serve(predict: Callable[[list[str]], Sequence[float]]) -> None:
    """For each line {"smiles": FILE, "count": N} of the standard input: predict so many molecules, and say what it took.

    The answer has the seconds of the clock and of the processor (with all processes below this one), and how many numbers came out.
    """
    print(DONE, "{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        smiles = list(islice(cycle(Path(asked["smiles"]).read_text().split()), asked["count"]))
        before, begin, processed = processor_seconds(), time.perf_counter(), time.process_time()
        values = predict(smiles)
        wall, busy = time.perf_counter() - begin, time.process_time() - processed
        # The system counts in hundredths of a second, but has the processes that others of them have started, too.
        answer = {
            "wall": wall,
            "cpu": max(busy, processor_seconds() - before - 0.01),
            "finite": sum(bool(value == value) for value in values),
        }
        print(DONE, json.dumps(answer), flush=True)
