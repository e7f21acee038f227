"""Millions of SMILES through `moleblend predict`: memory as rows go by, and what is there after it was killed and begun again.

    nice -n 19 python -m benchmarks stream --folder FOLDER [--rows 2000000] [--every 100000] [--kills 2] [--workers 1]

An exported model of the tiny size that was never trained predicts different molecules, of which every 997th cannot be read. The command
is killed (SIGKILL) when equal parts of the rows are done, and given again. Then each line of the output is read: every row has its own, in
order, those that cannot be read say so, and some hundred numbers are compared with those from Python. FOLDER keeps all of it, with
memory.csv, a line for each time that so many rows more are done; the same command goes on where it was stopped.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Row, row
from benchmarks.predict import untrained
from moleblend_fs.files import whole_file
from moleblend_fs.onnx_export.export import export, to_export

FRAGMENTS = ("C", "O", "N", "CC(C)", "C(=O)", "c1ccc(cc1)", "CS", "C(F)")
LINKED = 7
"""Fragments of a molecule: 8 to the 7th are different."""
UNREADABLE, BAD = 997, "c1cc"
"""Every so many rows this stands in the place of a molecule."""
LOOK = 0.2
"""Seconds between two looks at how far the command is."""
COMPARED = 300
"""Lines whose numbers are compared."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="of the input, the output, and what was measured")
    parser.add_argument("--rows", type=int, default=2_000_000, help="SMILES (default %(default)s)")
    parser.add_argument("--every", type=int, default=100_000, help="rows after which memory is measured (default %(default)s)")
    parser.add_argument("--kills", type=int, default=2, help="how often the command is killed (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make molecules (default %(default)s)")


class Measured(NamedTuple):
    """Rows that are done, seconds of the clock since the command was started, and MiB of it alone and of all its processes."""

    rows: int
    seconds: float
    alone: float
    together: float


def main(args: argparse.Namespace) -> list[Row]:
    if args.tiny:
        args.rows, args.every, args.kills = 15000, 2000, 1
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model.onnx").exists():
        checkpoint = untrained(folder / "model", "tiny")
        export(checkpoint, folder / "model.onnx", to_export(checkpoint))
    given, out = folder / f"{args.rows}.csv", folder / f"{args.rows}.predictions.csv"
    if not given.exists():
        with whole_file(given) as stream:
            stream.write("id,smiles\n")
            stream.writelines(f"m{number},{smiles_of(number)}\n" for number in range(args.rows))
    words = [sys.executable, "-P", "-m", "moleblend_fs.cli.main", "predict", str(folder / "model.onnx"), str(given), str(out)]
    words += ["--workers", str(args.workers), "--no-progress"]
    runs: list[list[Measured]] = []
    for kill in range(1, args.kills + 2) if not out.exists() else ():
        runs.append(watched(words, out, args.every, None if kill > args.kills else args.rows * kill // (args.kills + 1)))
        with whole_file(folder / "memory.csv") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["start", *Measured._fields])
            table.writerows([start, *each] for start, run in enumerate(runs) for each in run)
    check(given, out, folder / "model.onnx")
    return rows_of(runs, args)


def smiles_of(number: int) -> str:
    """The molecule of a row: fragments as the number's octal digits say."""
    if number % UNREADABLE == UNREADABLE - 1:
        return BAD
    return "".join(FRAGMENTS[number // len(FRAGMENTS) ** place % len(FRAGMENTS)] for place in range(LINKED))


def watched(words: list[str], out: Path, every: int, until: int | None) -> list[Measured]:
    """Run the command, to its end or until so many rows are done; what it had in memory each time that `every` rows more were.

    Raises:
        RuntimeError: it failed.
    """
    ledger, found, begun = out.with_name(f"{out.name}.partial.json"), list[Measured](), time.monotonic()
    with open(out.with_suffix(".log"), "a") as log, subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True) as process:
        first = done = rows_in(ledger)
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
                break
            done = max(done, rows_in(ledger))
            last = found[-1].rows if found else first
            if done // every > last // every:
                found.append(Measured(done, time.monotonic() - begun, *memory_of(process.pid)))
                print(f"stream: {done:,} rows, {found[-1].together:.0f} MiB", file=sys.stderr, flush=True)
            if until is not None and done >= until:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return found
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}; {log.name} says why")
    return found


def rows_in(ledger: Path) -> int:
    """Rows that the command has written for good."""
    try:
        return int(json.loads(ledger.read_text()).get("rows", 0))
    except (OSError, ValueError):
        return 0


def memory_of(process: int) -> tuple[float, float]:
    """MiB of a process, and of it with all that it started; pages that several share count once in all (PSS)."""
    alone = proportional(process)
    return alone, alone + sum(map(proportional, descendants(process)))


def proportional(process: int) -> float:
    """MiB, pages that several processes share divided among them; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def descendants(process: int) -> Iterator[int]:
    """Processes that a process started, and those that these did."""
    with suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def check(given: Path, out: Path, model: Path) -> None:
    """RuntimeError unless every row has its line, once, in order, with what belongs there."""
    from moleblend_fs import Predictor

    compared: list[tuple[str, str]] = []
    with open(given, newline="") as one, open(out, newline="") as two:
        asked, answered = csv.DictReader(one), csv.DictReader(two)
        for number, (row_, line) in enumerate(zip(asked, answered, strict=True)):  # ValueError where one is longer
            bad = row_["smiles"] == BAD
            if (line["id"], line["smiles"]) != (row_["id"], row_["smiles"]) or (line["status"] == "ok") == bad or bool(line["y"]) == bad:
                raise RuntimeError(f"{out}: {line}, where the row is {row_}")
            if number % max(1, number_of(given) // COMPARED) == 0:
                compared.append((line["smiles"], line["y"]))
    with warnings.catch_warnings(), Predictor(model) as predictor:
        warnings.simplefilter("ignore")  # the model does not say what it was trained on: it was not
        said = predictor.predict([smiles for smiles, _ in compared])["y"]
    different = [smiles for (smiles, text), value in zip(compared, said, strict=True) if smiles != BAD and text != f"{value:.7g}"]
    if different:
        raise RuntimeError(f"{out}: other numbers than from Python for {different[:5]}")


def number_of(given: Path) -> int:
    """Rows, as the file's name has them."""
    return int(given.stem)


def rows_of(runs: list[list[Measured]], args: argparse.Namespace) -> list[Row]:
    """Memory at the first and last look and at most, and the rate of the last start; none where all was done before."""
    found = [each for run in runs for each in run]
    if not found:
        return []
    case = f"{args.rows:,} SMILES, exported model of the tiny size, {args.workers} workers, killed {args.kills} times"
    memory = [each.together for each in found]
    rows = [
        row("stream", case, f"memory of all processes after {found[0].rows:,} rows", "MiB", memory[:1]),
        row("stream", case, f"memory of all processes after {found[-1].rows:,} rows", "MiB", memory[-1:]),
        row("stream", case, f"memory of all processes, each {args.every:,} rows", "MiB", memory),
        row("stream", case, "largest memory / that at first", "x", [max(memory) / memory[0]], target="< 1.1"),
        row("stream", case, "rows lost, repeated or in another order", "rows", [0.0], target="0"),
    ]
    longest = max(runs, key=len)
    if len(longest) > 1:
        rate = (longest[-1].rows - longest[0].rows) / (longest[-1].seconds - longest[0].seconds)
        rows.append(row("stream", case, "rate", "rows/s", [rate]))
    return rows
