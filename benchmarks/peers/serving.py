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


def serve(predict: Callable[[list[str]], Sequence[float]]) -> None:
    """For each line {"smiles": FILE, "count": N} of the standard input: predict so many molecules, and say what it took.

    The answer has the seconds of the clock and of the processor (with processes that have ended), and how many numbers came out.
    """
    print(DONE, "{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        smiles = list(islice(cycle(Path(asked["smiles"]).read_text().split()), asked["count"]))
        begin, before = time.perf_counter(), sum(os.times()[:4])
        processed = time.process_time()
        values = predict(smiles)
        # os.times counts in hundredths of a second, but has the processes that were started and have ended.
        busy = max(time.process_time() - processed, sum(os.times()[:4]) - before - 0.01)
        answer = {"wall": time.perf_counter() - begin, "cpu": busy, "finite": sum(bool(value == value) for value in values)}
        print(DONE, json.dumps(answer), flush=True)
