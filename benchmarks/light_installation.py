"""What it takes to predict with an exported model alone, beside the whole installation: size on disk, and time to the first prediction.

Installs the wheel of this tree, with pip and constraints.txt, into an environment for each extra; minutes where they are not there yet.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import ROOT, Row, row
from benchmarks.predict import untrained
from moleblend_fs.onnx_export.export import export, to_export

EXTRAS = ("onnx", "chem")
"""Of an exported model, and of a checkpoint."""
REPEATS = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="where environments are kept (default: a temporary folder)")


def main(args: argparse.Namespace) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = untrained(Path(folder) / "model")
        exported = Path(folder) / "model.onnx"
        export(checkpoint, exported, to_export(checkpoint))
        wheel = built(Path(folder))
        for extra, model in zip(EXTRAS, (exported, checkpoint), strict=True):
            place = (getattr(args, "environments", None) or Path(folder)) / extra
            install(place, wheel, extra)
            case = f"pip install 'moleblend-fs[{extra}]', {'exported model' if extra == 'onnx' else 'checkpoint'} of the small size"
            rows.append(row("light", case, "size on disk", "MB", [size(place) / 1e6]))
            command = [str(place / "bin" / "moleblend"), "predict", str(model), "--smiles", "CCO", "--hydrogens", "none"]
            wall, busy = zip(*(seconds(command) for _ in range(REPEATS + 1)), strict=True)
            rows.append(row("light", case, "time to first prediction", "s", wall[1:]))  # the first one reads files from the disk
            rows.append(row("light", case, "CPU time to first prediction", "s", busy[1:]))
    return rows


def built(folder: Path) -> Path:
    """A wheel of the committed tree."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "tree")], check=True)
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(folder / "tree")])
    return next(folder.glob("*.whl"))


def install(place: Path, wheel: Path, extra: str) -> None:
    """An environment with the wheel; one that is there gets the new wheel alone."""
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    if not place.exists():
        venv.create(place, with_pip=True)
        run([*pip, f"moleblend-fs[{extra}] @ {wheel.as_uri()}"])
    run([*pip, "--force-reinstall", "--no-deps", str(wheel)])


def run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def size(place: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(f"{place}/") for name in names)


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a command."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
