"""Put small faults into one room of the package, a sample of all that mutmut knows, and list those that no test notices.

    pip install -c constraints.txt mutmut
    nice -n 19 python scripts/mutation.py ROOM [--count 60] [--seed 1] [--work FOLDER]

The working tree is copied to FOLDER (by default a new temporary one), nothing of it is changed. Results: docs/mutation.md.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAST = ["-m", "not slow", "-p", "no:cacheprovider"]
ROOMS: dict[str, tuple[list[str], list[str]]] = {
    "objectives": (["moleblend_fs/objectives/*", "moleblend_fs/objectives/common/*"], ["tests/objectives"]),
    "accounts": (
        [f"moleblend_fs/data/{name}.py" for name in ("splits", "units", "accounting", "duplicates", "record", "batch")],
        ["tests/data", "tests/fairseq_plugins/test_batches.py", "--ignore", "tests/data/test_damage.py"],
    ),
    "pickles": (
        [f"moleblend_fs/data/{name}.py" for name in ("pickle_machine", "pickle_parts", "pickled_numpy", "untrusted_torch")],
        ["tests/data/test_untrusted_torch.py", "tests/sources/test_untrusted_records.py"],
    ),
    "store": (
        [
            *(f"moleblend_fs/data/{name}.py" for name in ("store", "writer", "store_parts", "unfinished_output", "partial_store")),
            *(f"moleblend_fs/data/{name}.py" for name in ("manifest", "typed_json", "trained_on", "graph")),
        ],
        ["tests/data/test_store.py", "tests/data/test_shards.py", "tests/inference/test_checkpoint_fit.py"],
    ),
    "damage": (
        [f"moleblend_fs/data/{name}.py" for name in ("lmdb_file", "verification")],
        ["tests/data/test_damage.py", "tests/sources/test_unimol_lmdb.py"],
    ),
    "batches": (
        [f"moleblend_fs/data/{name}.py" for name in ("batching", "sidecar", "conformer_groups", "split_file", "stored_smiles")],
        [
            *("tests/fairseq_plugins/test_batches.py", "tests/objectives/test_groups.py", "tests/sources/test_sidecar.py"),
            *("tests/sources/test_sdf_conformers.py", "tests/finetune/test_folds.py"),
        ],
    ),
    "model": (["moleblend_fs/model/*"], ["tests/model", "tests/inference/test_golden.py"]),
    "ops": (["moleblend_fs/ops/*/reference.py", "moleblend_fs/ops/layout.py"], ["tests/ops", "--ignore", "tests/ops/kernels"]),
    "checkpoint": (
        ["moleblend_fs/checkpoint/*"],
        ["tests/checkpoint", "tests/inference/test_checkpoint.py", "tests/distributed/test_shards.py", "tests/test_durability.py"],
    ),
    "zero": (
        ["moleblend_fs/zero/*"],
        ["tests/distributed/test_gradient_clipping.py", "tests/distributed/test_engine_config.py"],
    ),
    "criterion": (["fairseq_plugins/criterion.py"], ["tests/fairseq_plugins/test_minimised_loss.py"]),
}
"""Room, or part of one -> files that get faults, and tests that run in seconds and should notice."""
STATUS = {0: "survived", 1: "killed", 3: "killed", 33: "no test", None: "not run", 36: "killed", 24: "killed", -24: "killed"}
"""mutmut's exit codes; 24 and 36 are of mutants that never end."""


def copy(work: Path, room: str) -> None:
    """The files that git knows, and compiled ones, with mutmut told what to change and what to run."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    names += [str(path.relative_to(ROOT)) for path in (ROOT / "moleblend_fs").rglob("*.so")]
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, work / name)
    files, tests = ROOMS[room]
    package, other = ("fairseq_plugins", "moleblend_fs") if files[0].startswith("fairseq_plugins") else ("moleblend_fs", "fairseq_plugins")
    settings = {
        "source_paths": [package],
        "only_mutate": files,
        "also_copy": [other, "benchmarks", "docs", "examples", "scripts", "setup.py", "README.md"],
        "pytest_add_cli_args": FAST,
        "pytest_add_cli_args_test_selection": tests,
    }
    with (work / "pyproject.toml").open("a") as stream:
        stream.write("\n[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))


def mutmut(work: Path, *names: str) -> None:
    with (work / "mutmut.log").open("a") as log:
        subprocess.run(
            [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names], cwd=work, stdout=log, stderr=log, check=False
        )


def results(work: Path) -> dict[str, int | None]:
    """Mutant -> how its tests ended."""
    found: dict[str, int | None] = {}
    for path in sorted(work.glob("mutants/**/*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--count", type=int, default=60, help="mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="an empty folder, or one to go on in")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="mutation-"))
    work.mkdir(parents=True, exist_ok=True)
    if not results(work):
        copy(work, args.room)
        mutmut(work, "none")  # makes the mutants, and finds out which tests reach which
    every = sorted(results(work))
    sample = random.Random(args.seed).sample(every, min(args.count, len(every)))
    if not sample:
        sys.exit(f"mutmut made no mutants, see {work}/mutmut.log")
    mutmut(work, *sample)
    ended = {name: code for name, code in results(work).items() if name in sample}
    for name, code in sorted(ended.items()):
        if code not in (1, 3):
            print(f"{STATUS.get(code, f'exit code {code}')}: {name}")
            words = [sys.executable, "-m", "mutmut", "show", name]
            shown = subprocess.run(words, cwd=work, check=False, capture_output=True, text=True).stdout.splitlines()
            print(*(f"    {line}" for line in shown if line[:1] in "+-" and not line.startswith(("+++", "---"))), sep="\n")
    counts = [STATUS.get(code, "other") for code in ended.values()]
    print(f"{args.room}: {len(every)} mutants, {len(sample)} drawn: " + ", ".join(f"{counts.count(s)} {s}" for s in sorted(set(counts))))


if __name__ == "__main__":
    main()
