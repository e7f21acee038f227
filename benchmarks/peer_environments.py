"""Environments of other programs: where they are kept, what is in them, how they are made, and how programs in them are started.

`benchmarks/peers/NAME.txt` pins every package of the environment NAME. `python -m benchmarks peers` and `examples/evidence` share them.
"""

import hashlib
import os
import subprocess
import venv
from pathlib import Path

from moleblend_fs.locks import locked

PINS = Path(__file__).parent / "peers"
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moleblend_fs" / "peers"
"""Where environments are kept by default, and what `python -m benchmarks peers` has finished."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def requirements(name: str) -> Path:
    """The file that pins an environment's packages."""
    return PINS / f"{name}.txt"


def place_of(folder: Path, name: str) -> Path:
    """Where an environment is in a folder of them."""
    return folder / "environments" / name


def is_installed(place: Path, pins: Path) -> bool:
    """Whether all of an environment is there, as the file pins it today."""
    stamp = place / "installed"
    return stamp.is_file() and stamp.read_text() == hashlib.sha256(pins.read_bytes()).hexdigest()


def install_pinned(place: Path, pins: Path, seconds: float | None = None) -> None:
    """An environment with exactly these packages; made anew where the file has changed, or an earlier installation was stopped.

    One process makes it, others wait.

    Args:
        seconds: that pip may take.

    Raises:
        subprocess.CalledProcessError, subprocess.TimeoutExpired: pip failed, its last lines are the error's `stderr`; or took longer.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.with_name(f"{place.name}.lock")):
        if is_installed(place, pins):
            return
        venv.create(place, with_pip=True, clear=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(pins)]
        subprocess.run(pip, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=seconds)
        (place / "installed").write_text(hashlib.sha256(pins.read_bytes()).hexdigest())


def environment(threads: int) -> dict[str, str]:
    """Variables of a program that is started in one: nothing of this Python and package, no GPU, so many threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MOLEBLEND"))}
    return kept | dict.fromkeys(THREADS, str(threads)) | {"TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
