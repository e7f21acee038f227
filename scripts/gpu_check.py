"""Part of gpu_check.sh: run chunks within a budget of time; append rows that were measured elsewhere."""

import argparse
import importlib
import json
import os
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from gpu_chunks import Chunk, Place, chunks, forked, small_step  # noqa: E402

SPARE = 5.0
"""Seconds of the budget that are kept for packing."""
LATE = 3
"""A chunk that takes so many times longer than expected is killed: the others are worth more."""
OFTEN = ("torch._dynamo", "torch._inductor", "triton", "fairseq_plugins", "rdkit.Chem.AllChem", "pytest")
"""What several chunks import, and a rehearsal once for all of them."""
TAR, SUMMARY = "gpu_results.tar.gz", "summary.txt"


def check(names: list[str], budget: float, place: Place, out: Path) -> int:
    """Run chunks, the most wanted first, within a budget of seconds; 0 if none failed.

    What does not fit is skipped, what takes too long is killed; both are said. `out` gets two files, packed anew after each chunk.
    """
    known = dict(chunks())
    begin, summary, failed = time.perf_counter(), list[str](), False
    place.results.mkdir(parents=True, exist_ok=True)
    for module in OFTEN if place.rehearsal else ():  # one that looked for a GPU could keep the chunks, which are forked, from using it
        importlib.import_module(module)
    for name in [name for name in known if name in names]:
        chunk, left = known[name], budget - SPARE - (time.perf_counter() - begin)
        if reason := does_not_fit(chunk, left, place):
            summary.append(f"skipped: {name}, {reason}")
        else:
            print(f"== {name}", flush=True)
            started, log = time.perf_counter(), place.results / f"{name}.log"
            limit = limit_of(chunk, left, place)
            code = forked(lambda name=name: begun(name, place), log, limit)  # type: ignore[misc]
            print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
            said = "passed" if code == 0 else f"FAILED ({f'killed after {limit:.0f} s' if code is None else code})"
            summary.append(f"{said}: {name}, {time.perf_counter() - started:.0f} s")
            failed |= code != 0
        print(summary[-1], flush=True)
        pack(place.results, out, summary)
    return int(failed)


def begun(name: str, place: Place) -> int:
    """Run a chunk in this process. Self-tests take long in the interpreter: there the chunks for them have them alone."""
    if place.rehearsal and name not in ("doctor", "accuracy"):
        from moleblend_fs.ops import dispatch

        dispatch._tested = lambda *given: None  # type: ignore[assignment]
    return dict(chunks())[name].run(place)


def does_not_fit(chunk: Chunk, left: float, place: Place) -> str | None:
    """Why a chunk is not begun with so many seconds left; None if it is. A rehearsal's sizes have no expected time."""
    if left <= 0 or (not place.rehearsal and chunk.seconds > left):
        return f"it takes about {chunk.seconds} s and {max(left, 0):.0f} s are left"
    return None


def limit_of(chunk: Chunk, left: float, place: Place) -> float:
    return left if place.rehearsal else min(left, LATE * chunk.seconds)


def pack(results: Path, out: Path, summary: list[str]) -> None:
    """All results as one file, and a line for each chunk."""
    out.mkdir(parents=True, exist_ok=True)
    (results / SUMMARY).write_text("\n".join(summary) + "\n")
    with tarfile.open(out / f"{TAR}.new", "w:gz", compresslevel=3) as archive:
        archive.add(results, arcname="gpu_results")
    os.replace(out / f"{TAR}.new", out / TAR)
    (out / SUMMARY).write_text("\n".join(summary) + "\n")


def collect(files: list[Path], table: Path | None) -> int:
    """Append rows of JSON files, or of packed results. Those that were measured where there is no git get this checkout's commit."""
    from benchmarks.harness import RESULTS, Row, append_rows, commit, print_rows

    contents: list[bytes] = []
    for file in files:
        if file.suffix == ".json":
            contents.append(file.read_bytes())
            continue
        with tarfile.open(file) as archive:
            members = [member for member in archive.getmembers() if member.isfile() and member.name.endswith(".json")]
            contents += [stream.read() for member in members if (stream := archive.extractfile(member)) is not None]
    lists = [content for content in map(json.loads, contents) if isinstance(content, list)]  # the others compare curves
    rows = [Row(**{**row, "commit": row["commit"] or commit()}) for content in lists for row in content]
    append_rows(rows, table or RESULTS)
    print_rows(rows)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("small-step")
    command = commands.add_parser("check")
    command.add_argument("--budget", type=float, required=True)
    command.add_argument("--device", required=True)
    command.add_argument("--results", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("names", nargs="*", metavar="CHUNK")
    command = commands.add_parser("collect")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--table", type=Path, help="another table than benchmarks/results.csv")
    args = parser.parse_args(argv)
    known = dict(chunks())
    if args.command == "list":
        print("\n".join(f"{name:18} {chunk.seconds:4} s  {chunk.about}" for name, chunk in known.items()))
        return 0
    if args.command == "small-step":
        return small_step()
    if args.command == "collect":
        return collect(args.files, args.table)
    if unknown := [name for name in args.names if name not in known]:
        print(f"there is no chunk {unknown[0]}; they are: {', '.join(known)}", file=sys.stderr)
        return 2
    place = Place(args.device, args.results)
    if place.rehearsal:
        hasten_interpreter()
    else:
        import torch  # noqa: F401  once, for all chunks
    return check(args.names or list(known), args.budget, place, args.out)


def hasten_interpreter() -> None:
    """Import what all chunks need, once, and let Triton's interpreter do nothing in vain."""
    import fairseq_cli.train  # noqa: F401

    from tests.support import interpreter

    interpreter.hasten()


if __name__ == "__main__":
    sys.exit(main())
