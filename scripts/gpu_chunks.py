"""The chunks of gpu_check.sh, in the order of their worth. Each is a function of `Place` that gives an exit code, and runs in a process
of its own, forked from one that has imported torch but not used the GPU."""

import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE_SHAPES = {"attention": (32, 24), "relation_bias": (32, 128), "residual_norm": (768,), "gelu_dropout": (768,)}
"""Op -> the shape of its self-test in the base model: heads, and their width or Gaussians; widths."""
WITHOUT_GPU = ("test_resources.py", "test_interpreter.py", "test_program_order.py", "test_memory_accesses.py", "test_launches.py")
"""Tests of kernels that need no GPU."""
REHEARSED = "variants or test_gradcheck or test_dispatched or test_entry_point"
"""Which tests of kernels a rehearsal runs."""
CURVE = 50
"""Updates on which training with and without kernels is judged."""


@dataclass(frozen=True)
class Place:
    """Where a chunk runs: "cuda", or "cpu" for a rehearsal; and where its results go."""

    device: str
    results: Path

    @property
    def rehearsal(self) -> bool:
        return self.device == "cpu"


@dataclass(frozen=True)
class Chunk:
    """What it does; seconds that it is expected to take on a GPU, with nothing compiled before (an H100 took a third to all of that)."""

    about: str
    seconds: int
    run: Callable[[Place], int]


def doctor(place: Place) -> int:
    """Versions, devices, and the self-test of each op."""
    import torch

    from benchmarks.harness import commit, versions
    from moleblend_fs.cli.main import main
    from moleblend_fs.ops import dispatch

    os.environ["MOLEBLEND_OPS"] = "triton"
    if not place.rehearsal:
        subprocess.run(["nvidia-smi"], check=False)
    print(versions(), commit(), flush=True)
    main(["doctor"])
    return int(any("self-test passed" not in dispatch.describe(op, torch.device(place.device)) for op in dispatch.OPS))


def accuracy(place: Place) -> int:
    """All kernels in bfloat16, attention and relation bias at the base model's sizes, against plain torch in float64."""
    import torch

    from moleblend_fs import ops

    logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stdout, force=True)
    for name in [room.name for room in pkgutil.iter_modules(ops.__path__) if room.ispkg]:
        self_test = importlib.import_module(f"moleblend_fs.ops.{name}.selftest").self_test
        shape = None if place.rehearsal else BASE_SHAPES.get(name)
        self_test(torch.device(place.device), torch.bfloat16, shape)
        print(f"{name}: bfloat16, {shape or 'small sizes'}: as plain torch in float64, but for rounding", flush=True)
    return 0


def benchmark(name: str, *options: str, rows: str = "") -> Callable[[Place], int]:
    """`python -m benchmarks NAME`; its rows become NAME.json, or `rows`.json."""

    def run(place: Place) -> int:
        from benchmarks.__main__ import main

        given = [option.format(results=place.results) for option in options]
        tiny = ["--tiny"] if place.rehearsal else []
        return main([*tiny, "--no-save", "--device", place.device, "--json", str(place.results / f"{rows or name}.json"), name, *given])

    return run


def kernels(place: Place) -> int:
    """The grids of kernel tests, twelve processes on the one GPU; for a rehearsal one small test of each op."""
    import pytest

    rooms = ROOT / "tests" / "ops" / "kernels"
    ignored = [f"--ignore={rooms / name}" for name in WITHOUT_GPU]
    chosen = ["-k", REHEARSED] if place.rehearsal else ["-n", "12", "--dist", "worksteal"]
    return int(pytest.main(["-p", "no:cacheprovider", "-q", "--durations=5", *ignored, *chosen, str(rooms)]))


def small_step() -> int:
    """A pretraining update of the smallest model on a few molecules, with the kernels."""
    import numpy as np
    import torch

    from benchmarks.profiled import MINIATURE, Update

    loss = float(Update(MINIATURE, np.array([3, 20]), "cuda" if torch.cuda.is_available() else "cpu").take())
    print(f"loss {loss:.4f}")
    return int(not loss > 0)


def sanitizer(place: Place) -> int:
    """The small step under compute-sanitizer, which reports reads and writes out of bounds; without the tool a line and no more."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    os.environ["MOLEBLEND_OPS"] = "triton"
    if tool is None:
        print("not run under compute-sanitizer: there is none", flush=True)
        return small_step() if place.rehearsal else 0
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "small-step"]
    return subprocess.run(command, env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, check=False).returncode


def training(name: str, tolerance: float, *options: str) -> Callable[[Place], int]:
    """fairseq-train with the kernels and without: the curves of the first updates are compared."""

    def run(place: Place) -> int:
        from loss_curves import compare_logs

        from moleblend_fs.cli.main import main

        updates = 2 if place.rehearsal else CURVE
        size = "--arch moleblend_small --batch-size 256"
        if place.rehearsal:
            size = "--arch moleblend_tiny --layers 1 --embed-dim 16 --attention-heads 2 --gaussians 8 --pair-dim 8 --batch-size 4"
        with tempfile.TemporaryDirectory() as folder:
            store, limit = Path(folder) / "store", ["--limit", "48", "--workers", "1", "--hydrogens", "none"] if place.rehearsal else []
            sample = str(ROOT / "examples" / "quickstart" / "qm9_sample.csv.xz")
            if code := main(["preprocess", "qm9", sample, str(store), "--no-progress", *limit]):
                return code
            words = f"--task moleblend --criterion blend_then_predict {size} --seed 1 --num-workers 0"
            words += f" --max-update {updates} --optimizer adam --clip-norm 5 --lr 2e-4 --lr-scheduler fixed --warmup-updates 20"
            words += " --log-format json --log-interval 1 --no-save --disable-validation"
            given = [str(store), "--user-dir", str(ROOT / "moleblend_fs"), *words.split(), *options]
            logs = {ops: Path(folder) / f"{ops}.log" for ops in ("triton", "reference")}
            for ops, log in logs.items():
                code = forked(lambda ops=ops: _train([*given, "--save-dir", str(store.parent / ops)], ops), log)  # type: ignore[misc]
                if code != 0:
                    print(log.read_text()[-3000:])
                    return 1
            code = compare_logs(list(logs.values()), updates, tolerance, place.results / f"{name}.json")
            keep_row(name, updates, place)
            return code

    return run


def keep_row(name: str, updates: int, place: Place) -> None:
    """How far apart two curves are, as a row for `--collect`."""
    from benchmarks.harness import row

    apart = json.loads((place.results / f"{name}.json").read_text())["all"]
    case = f"{name}: small, QM9's sample, {updates} updates with kernels and without"
    kept = row("gpu_check", case, "largest difference of an update's loss", "%", [100 * apart], device=place.device)
    (place.results / f"{name}_rows.json").write_text(json.dumps([asdict(kept)], indent=1) + "\n")


def _train(words: list[str], ops: str) -> int:
    from fairseq_cli.train import cli_main

    import fairseq_plugins  # noqa: F401  since fairseq passes over a --user-dir that this process has imported already

    os.environ["MOLEBLEND_OPS"] = ops
    sys.argv = ["fairseq-train", "--adam-betas", "(0.9, 0.999)", *words]
    cli_main()
    return 0


def forked(function: Callable[[], int], log: Path, limit: float | None = None) -> int | None:
    """Run a function in a process, forked from this one, that says everything to a file.

    Args:
        limit: seconds after which it is killed, with all that it has started.

    Returns:
        Its exit code; None if it was killed.
    """

    def begin() -> None:
        if limit is not None:
            os.setsid()  # a group of its own, to be killed as one
        with open(log, "wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        code = function()
        sys.stdout.flush()
        raise SystemExit(code)

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    process.join(limit)
    late = process.is_alive()
    if late and process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.kill()
        process.join()
    return None if late else process.exitcode


QUICK = ("kernels", "kernels, several heads a program", "reference", "SDPA, materialised bias", "SDPA, materialised bias, one bucket")
"""Ways to compute attention that are not compiled when they are called."""
COMPILED = ("kernels", "plain attention, compiled", "FlexAttention, captured bias")


def chunks() -> Iterator[tuple[str, Chunk]]:
    """Name and chunk, the most wanted first."""
    yield "doctor", Chunk("device, versions, self-tests of the kernels", 120, doctor)
    yield "accuracy", Chunk("kernels in bfloat16, at the base model's sizes, against float64", 40, accuracy)
    profiled = benchmark("profiled", "--trace", "{results}/profile.json.gz")
    yield "profile", Chunk("one profiled update of the base model, beside the predicted table", 60, profiled)
    yield "end_to_end", Chunk("molecules/s of fairseq-train, with and without kernels", 240, benchmark("end_to_end"))
    yield "kernels", Chunk("the grids of the kernel tests, in twelve processes", 180, kernels)
    yield "sanitizer", Chunk("a small update under compute-sanitizer", 60, sanitizer)
    # The kernels add in another order: float32 runs drift apart by rounding, which Adam's first steps magnify.
    exact = training("train", 0.01, "--attention-dropout", "0", "--activation-dropout", "0", "--drop-path", "0")
    yield "train", Chunk(f"{CURVE} updates in float32 with and without kernels: the same loss curve", 60, exact)
    # Other draws of dropout, other rounding: single updates differ by some percent, their means by less.
    yield "train_bf16", Chunk("the same in bfloat16, dropout on: the same curve but for noise", 50, training("train_bf16", 0.1, "--bf16"))
    yield (
        "attention",
        Chunk(
            "attention: both tables of launches and other libraries, checked to be equal, then timed",
            60,
            benchmark("attention", "--only", *QUICK),
        ),
    )
    yield "relation_bias", Chunk("relation bias: time and memory, beside plain torch and stored features", 120, benchmark("relation_bias"))
    yield "step", Chunk("forward and backward pass for three data sets: with kernels, without, padded", 200, benchmark("step"))
    yield "pair_projection", Chunk("pair heads: time and memory, beside plain torch", 120, benchmark("pair_projection"))
    yield (
        "attention_compiled",
        Chunk("attention beside what torch compiles", 400, benchmark("attention", "--only", *COMPILED, rows="attention_compiled")),
    )
