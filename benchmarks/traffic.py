"""What training hands to torch.distributed: bytes of each kind of collective in an update, counted in runs of fairseq-train with gloo.

Every collective passes torch's dispatcher as an operator of `c10d`, DeepSpeed's and fairseq's alike; a dispatch mode around
each update sees its tensors. The worker is fairseq-train itself, with its trainer's updates wrapped.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.harness import ROOT

KINDS = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "reduce_": "reduce",
    "broadcast_": "broadcast",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
}
"""c10d's operators -> the collective that they are."""


class Collective(NamedTuple):
    """One call: its kind, and bytes of the whole tensor (what is reduced or broadcast; all parts of a gather or scatter)."""

    kind: str
    bytes: int


class Traffic(TorchDispatchMode):
    """Notes the collectives that are called in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "c10d" and name != "barrier":
            if name not in KINDS:
                raise NotImplementedError(f"what c10d.{name} moves is not known here")
            # The first two arguments hold outputs and inputs; of a gather or scatter the larger side is the whole tensor.
            sides = [sum(x.nbytes for x in tree_leaves(side) if isinstance(x, torch.Tensor)) for side in args[:2]]
            self.calls.append(Collective(KINDS[name], max(sides)))
        return func(*args, **(kwargs or {}))


def run(store: Path, folder: Path, options: Sequence[str], processes: int) -> list[list[Collective]]:
    """The collectives that rank 0 calls in each update of a run of the tiny model.

    Raises:
        RuntimeError: the run failed; holds the end of its output.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "benchmarks.traffic", str(folder / "calls.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command += words(store, folder, options)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "calls.json").exists():
        said = (done.stdout + done.stderr)[-4000:]
        raise RuntimeError(f"{' '.join(options)} on {processes} processes ended with {done.returncode}\n{said}")
    return read(folder / "calls.json")


def words(store: Path, folder: Path, options: Sequence[str]) -> list[str]:
    """fairseq-train's arguments of such a run."""
    return [
        *(str(store), "--user-dir", str(ROOT / "moleblend_fs"), "--save-dir", str(folder / "save"), "--no-save", "--disable-validation"),
        *("--task", "moleblend", "--criterion", "blend_then_predict", "--arch", "moleblend_tiny", "--batch-size", "4"),
        *("--lr", "1e-4", "--lr-scheduler", "fixed", "--max-update", "3", "--num-workers", "0", "--clip-norm", "5"),
        *options,
    ]


def read(file: Path) -> list[list[Collective]]:
    """What `worker` has left: the collectives of each update."""
    return [[Collective(*call) for call in update] for update in json.loads(file.read_text())]


def totals(calls: Sequence[Collective], smallest: int = 1000) -> dict[str, int]:
    """Bytes by kind; all-reduces of fewer than `smallest` bytes (counts, norms, what is logged) under "small"."""
    result: dict[str, int] = defaultdict(int)
    for call in calls:
        result["small" if call.kind == "all_reduce" and call.bytes < smallest else call.kind] += call.bytes
    return dict(result)


def worker(target: Path, words: list[str]) -> None:
    """fairseq-train that leaves rank 0's collectives of each update in a file."""
    import fairseq_cli.train

    import fairseq_plugins  # noqa: F401  puts its trainer into fairseq_cli.train

    build, updates = fairseq_cli.train.Trainer, []

    def counting(*args: Any) -> Any:
        trainer = build(*args)
        train_step = trainer.train_step

        def counted(*step_args: Any, **options: Any) -> Any:
            with Traffic() as traffic:
                result = train_step(*step_args, **options)
            updates.append(traffic.calls)
            return result

        trainer.train_step = counted
        return trainer

    fairseq_cli.train.Trainer = counting
    sys.argv = ["fairseq-train", *words]
    fairseq_cli.train.cli_main()
    if os.environ["RANK"] == "0":
        target.write_text(json.dumps(updates))


if __name__ == "__main__":
    worker(Path(sys.argv[1]), sys.argv[2:])
