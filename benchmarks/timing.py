"""A real step's parts in seconds: fairseq-train itself, with its trainer's updates timed, on one process or many.

python -m benchmarks.timing step.json STORE --task moleblend ... (options of fairseq-train) ... --max-update 40

What it writes is what `python -m benchmarks scaling --step` takes. On a GPU each part is waited for.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import ROOT, busy_seconds

WARM_UP = 5
"""Updates that do not count."""
TOGETHER = "MOLEBLEND_PROCESSES_TOGETHER"
QUIET = 1 / 4
"""Share of a CPU run's updates that count: those during which others took least of the machine's cores."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What updates took on rank 0, in seconds.

    Attributes:
        sizes: elements of each parameter.
        stage: of ZeRO, 0 without. half: bfloat16 or float16.
        processes: of the run.
        batch: molecules of a micro-batch.
        micro: forward and backward pass of each micro-batch.
        optimizer: of each update: normalising, clipping, Adam; of DeepSpeed its step.
        whole: from the beginning of one update to that of the next.
        rest: what is left of it: loading, counts, logs.
        cpu: the update's CPU seconds, which hold no waiting.
        others: cores that other programs took meanwhile, as far as the CPU's counters tell; 0 on GPUs.
    """

    sizes: list[int]
    stage: int
    half: bool
    processes: int
    batch: int
    micro: list[float]
    optimizer: list[float]
    whole: list[float]
    rest: list[float]
    cpu: list[float]
    others: list[float]


def read(path: Path) -> Step:
    """A step that was written."""
    return Step(**json.loads(path.read_text()))


def joined(steps: Sequence[Step]) -> Step:
    """One step with what all took."""
    lists: dict[str, Any] = {
        name: [x for step in steps for x in getattr(step, name)] for name in ("micro", "optimizer", "whole", "rest", "others")
    }
    return replace(steps[0], **lists)


def start(target: Path, words: Sequence[str], processes: int, together: int) -> "subprocess.Popen[str]":
    """fairseq-train on this machine's CPU, timed; its output goes to a file beside the target.

    Args:
        together: processes that do the like at this time, those of other runs too.
    """
    command = [sys.executable, "-m", "benchmarks.timing"]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "benchmarks.timing"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", TOGETHER: str(together)}
    with open(target.with_suffix(".log"), "w") as log:
        return subprocess.Popen([*command, str(target), *words], cwd=ROOT, env=environment, stdout=log, stderr=log, text=True)


def finish(process: "subprocess.Popen[str]", target: Path) -> Step:
    """Wait for a started run.

    Raises:
        RuntimeError: it failed; holds the end of its output.
    """
    if process.wait() or not target.exists():
        raise RuntimeError(f"fairseq-train ended with {process.returncode}\n{target.with_suffix('.log').read_text()[-4000:]}")
    return read(target)


def now() -> float:
    """Seconds, when all that was given to the GPU is done. Without one, of one process alone CPU seconds, which others disturb less."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return time.process_time()
    return time.perf_counter()


def busy() -> float:
    """Seconds that the machine's cores worked for other programs, if `TOGETHER` processes do what this one does."""
    if torch.cuda.is_available():
        return 0.0
    return busy_seconds()[0] - time.process_time() * int(os.environ.get(TOGETHER, "1"))


class Clock:
    """Adds up the seconds of calls, by part, for each update."""

    def __init__(self) -> None:
        self.updates: list[dict[str, list[float]]] = []
        self.begins: list[float] = []
        self.busy: list[tuple[float, float]] = []
        self.cpu: list[float] = []

    def begin(self) -> None:
        self.begins.append(now())
        self.busy.append((busy(), time.perf_counter()))
        self.cpu.append(time.process_time())
        self.updates.append({"micro": [], "optimizer": []})

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds noted within updates."""

        def call(*args: Any, **options: Any) -> Any:
            begin = now()
            result = function(*args, **options)
            if self.updates:
                self.updates[-1][part].append(now() - begin)
            return result

        return call

    def seconds(self) -> dict[str, list[float]]:
        """Lists of `Step`, without the first updates, the last, whose end nothing marks, and those that others disturbed most."""
        whole = [end - begin for begin, end in itertools.pairwise(self.begins)]
        others = [max(0.0, b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(self.busy)]
        counted = sorted(range(WARM_UP, len(whole)), key=others.__getitem__)
        if not torch.cuda.is_available():
            counted = counted[: max(1, round(QUIET * len(counted)))]
        micro, optimizer = [update["micro"] for update in self.updates], [sum(update["optimizer"]) for update in self.updates]
        return {
            "micro": [x for i in counted for x in micro[i]],
            "optimizer": [optimizer[i] for i in counted],
            "whole": [whole[i] for i in counted],
            "rest": [whole[i] - sum(micro[i]) - optimizer[i] for i in counted],
            "cpu": [self.cpu[i + 1] - self.cpu[i] for i in counted],
            "others": [others[i] for i in counted],
        }


def worker(target: Path, words: list[str]) -> None:
    """fairseq-train that leaves rank 0's seconds in a file."""
    import fairseq_cli.train

    import fairseq_plugins  # noqa: F401  puts its trainer into fairseq_cli.train

    build, clock, trainers = fairseq_cli.train.Trainer, Clock(), []

    def timing(*args: Any) -> Any:
        trainer = build(*args)
        train_step = trainer.train_step

        def timed_step(*step_args: Any, **options: Any) -> Any:
            if not clock.begins:  # after checkpoints are loaded, when the optimizer is there to stay
                trainer.task.train_step = clock.timed("micro", trainer.task.train_step)
                for name in ("multiply_grads", "clip_grad_norm", "step"):
                    setattr(trainer.optimizer, name, clock.timed("optimizer", getattr(trainer.optimizer, name)))
            clock.begin()
            return train_step(*step_args, **options)

        trainer.train_step = timed_step
        trainers.append(trainer)
        return trainer

    fairseq_cli.train.Trainer = timing
    sys.argv = ["fairseq-train", *words]
    fairseq_cli.train.cli_main()
    if os.environ.get("RANK", "0") == "0":
        target.write_text(json.dumps(asdict(described(trainers[0], clock))) + "\n")


def described(trainer: Any, clock: Clock) -> Step:
    """The run's step."""
    common = trainer.cfg.common
    return Step(
        # ZeRO 3 leaves empty tensors in place of parameters.
        sizes=[getattr(p, "ds_numel", p.numel()) for p in trainer.get_model().parameters()],
        stage=getattr(trainer.cfg.optimizer, "zero_stage", 0),
        half=common.bf16 or common.fp16,
        processes=trainer.data_parallel_world_size,
        batch=trainer.cfg.dataset.batch_size,
        **clock.seconds(),
    )


if __name__ == "__main__":
    worker(Path(sys.argv[1]), sys.argv[2:])
