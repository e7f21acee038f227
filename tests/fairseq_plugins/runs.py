"""Running fairseq-train in tests: as the command; its main function in a forked process or, cheapest, in this one."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from moleblend_fs.checkpoint.read import read_torch_file
from tests.support import configurations, forked_ranks

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
_SIZE = {"layers": 2, "embed-dim": 16, "ffn-dim": 16, "attention-heads": 2, "gaussians": 8, "pair-dim": 4, "hidden-3d": 8}
SMALL = tuple(word for name, value in _SIZE.items() for word in (f"--{name}", str(value)))
"""Options of a model whose step costs next to nothing."""
NO_DROPOUT = ("--attention-dropout", "0", "--activation-dropout", "0", "--drop-path", "0")
PRETRAIN = ("--task", "moleblend", "--criterion", "blend_then_predict", "--arch", "moleblend_tiny")
FINETUNE = ("--task", "moleblend_finetune", "--criterion", "property_prediction", "--arch", "moleblend_tiny")
ADAM = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.999)", "--lr", "1e-3", "--clip-norm", "5")
SGD = ("--optimizer", "sgd", "--momentum", "0", "--lr", "1", "--clip-norm", "0")


@dataclass
class Run:
    """What a run left: its exit code, all it said, the JSON lines it logged, its folder."""

    code: int
    output: str
    folder: Path
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def logged(self, tag: str) -> list[dict[str, Any]]:
        """Logged values of "train_inner", "train" (an epoch) or "valid"."""
        return [values for name, values in self.lines if name == tag]

    def column(self, tag: str, key: str) -> list[float]:
        return [float(values[key]) for values in self.logged(tag)]

    def weights(self, name: str = "checkpoint_last.pt") -> dict[str, torch.Tensor]:
        """Parameters in a checkpoint."""
        content = read_torch_file(self.folder / name)
        return {key.removeprefix("model."): value for key, value in content["model"].items()}


def arguments(store: Path | str, folder: Path, options: Sequence[str]) -> list[str]:
    """fairseq-train's arguments; options given later win."""
    return [
        *(str(store), "--user-dir", str(ROOT / "moleblend_fs"), "--save-dir", str(folder), "--log-format", "json", "--log-interval", "1"),
        *("--lr-scheduler", "fixed", "--num-workers", "0", "--seed", "1", "--no-epoch-checkpoints", *options),
    ]


def environment() -> dict[str, str]:
    """One thread, and no trace of this process's own distributed start."""
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"OMP_NUM_THREADS": "1"}


def command(words: Sequence[str], folder: Path, timeout: float = 180) -> Run:
    """Any command; stdout and stderr together."""
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=timeout, check=False
    )
    return Run(done.returncode, done.stdout, folder, logged_lines(done.stdout))


def logged_lines(output: str) -> list[tuple[str, dict[str, Any]]]:
    """(tag, values) of the JSON lines in what a command said."""
    found = [line.split(" | ") for line in output.splitlines()]
    return [(parts[2], json.loads(parts[3])) for parts in found if len(parts) >= 4 and parts[3].startswith('{"')]


def train_command(store: Path | str, folder: Path, *options: str) -> Run:
    """The command fairseq-train."""
    return command([str(BIN / "fairseq-train"), *arguments(store, folder, options)], folder)


def train_forked(
    store: Path | str, folder: Path, *options: str, entry: Callable[[list[str]], None] = forked_ranks.fairseq_train_by_fork
) -> Run:
    """The command's main function in a process of its own, forked from one that has everything imported: a sixth of its time.

    What it says is what a terminal would show; processes that it starts are real. What comes before main and after it is not the
    command's: `train_command` is for that. `entry` sets up, before that function, what is to be different.
    """
    log = folder.parent / f"{folder.name}-said.log"
    started = forked_ranks.start_command(arguments(store, folder, options), log, entry)
    try:
        (code,) = started.wait(180)
    finally:
        started.kill()
    output = started.output()
    assert code is not None, output[-3000:]
    return Run(code, output, folder, logged_lines(output))


def torchrun(processes: int, store: Path | str, folder: Path, *options: str) -> Run:
    """fairseq-train started by torchrun on this host."""
    start = ["--standalone", "--nproc-per-node", str(processes), "--no-python"]
    return command([str(BIN / "torchrun"), *start, str(BIN / "fairseq-train"), *arguments(store, folder, options)], folder)


class _Collect(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.name, record.getMessage()))


@contextmanager
def _own_state(words: list[str]):
    """fairseq keeps state in modules: metrics, TensorBoard's files, the best score, sys.argv."""
    import fairseq_cli.train as entry
    from fairseq import checkpoint_utils
    from fairseq.logging import metrics, progress_bar

    from fairseq_plugins.patches import trainer_class

    trainer_class.install()
    configurations.hasten()
    collect, root, argv = _Collect(), logging.getLogger(), sys.argv
    level = root.level
    root.addHandler(collect)
    root.setLevel(logging.INFO)
    metrics.reset()
    progress_bar._tensorboard_writers = {}
    for function, names in ((checkpoint_utils.save_checkpoint, ("best",)), (entry.should_stop_early, ("best", "num_runs"))):
        for name in names:
            function.__dict__.pop(name, None)
    sys.argv = ["fairseq-train", *words]
    try:
        yield entry.cli_main, collect
    finally:
        sys.argv = argv
        root.removeHandler(collect)
        root.setLevel(level)


def train(store: Path | str, folder: Path, *options: str) -> Run:
    """fairseq-train's main function in this process, one process."""
    return run_here(arguments(store, folder, options), folder)


def run_here(words: Sequence[str], folder: Path) -> Run:
    """`train` with all arguments given."""
    threads = torch.get_num_threads()
    code, said = 0, io.StringIO()
    with warnings.catch_warnings(), redirect_stderr(said), _own_state(list(words)) as (main, collect):
        warnings.simplefilter("ignore")  # fairseq's and hydra's own
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    torch.set_num_threads(threads)
    lines = [(name, json.loads(message)) for name, message in collect.records if message.startswith('{"')]
    return Run(code, "\n".join([*(message for _, message in collect.records), said.getvalue()]), folder, lines)
