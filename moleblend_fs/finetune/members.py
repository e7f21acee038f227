"""Members: each is one `moleblend train` command over a fold of the store; some run at a time, and what is finished is not run again."""

import contextlib
import ctypes
import json
import math
import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.checkpoint.weights_by_name import NONE
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.data.splits import TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, write_atomically
from moleblend_fs.finetune.data import Data
from moleblend_fs.finetune.run_folder import COMMAND, MEMBERS, SPLITS
from moleblend_fs.finetune.settings import OUTPUT_SCALE, Recipe, Settings, recipe_for
from moleblend_fs.model.config import HEAD_SIZES, PRESETS, TOKEN, architecture_options

LOG, OUTPUT, DONE = "train.log", "output.log", "finished.json"
FOLDER, CHECKPOINT = MEMBERS, "checkpoint_best.pt"
STOPPED = "preempted"
"""File that training leaves where it was told to stop."""
SCRIPT = '#!/bin/sh\n# Trains this member, and goes on where it was stopped.\ncd "$(dirname "$0")/../.." || exit 1\n'
WEIGHTS = "--finetune-from-model"
WARM_UP = 0.1
"""Share of the updates in which the learning rate rises."""
ENDING = 120
"""Seconds that a member may take to save what it has when it is told to stop."""
POLL = 0.5
"""Seconds between two looks at how far the members are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model to train.

    Attributes:
        name: shown to people. folder: its own, two below the run's. fold: of the file of splits. seed: of fairseq.
        words: of the command, after `moleblend train`; paths are seen from the run's folder.
        updates: in all.
    """

    name: str
    folder: str
    fold: str
    seed: int
    words: tuple[str, ...]
    updates: int

    def command(self) -> str:
        """The script that trains it, from wherever it lies."""
        lines = " \\\n    ".join(shlex.join(pair) for pair in _paired(self.words))
        return f"{SCRIPT}exec moleblend train {lines}\n"


def _paired(words: Sequence[str]) -> list[list[str]]:
    """Words in lines: an option with its values."""
    lines: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append([word])
        else:
            lines[-1].append(word)
    return lines


def plan(data: Data, store_path: str, folds: dict[str, Store], settings: Settings) -> list[Member]:
    """All members: `ensemble` for each fold, with the seeds S, S + 1, ..."""
    start = starting_checkpoint(settings)
    return [
        plan_one(data, store_path, name, fold, settings, start, number=number, folder=f"{FOLDER}/{name}-member{number}")
        for name, fold in folds.items()
        for number in range(settings.ensemble)
    ]


def starting_checkpoint(settings: Settings) -> Checkpoint | None:
    """The weights to start from; None for random ones. UserError where they have another size than is asked for."""
    if not settings.pretrained:
        return None
    found = load(settings.weights)
    names = [name for name in PRESETS[settings.arch] if name not in HEAD_SIZES] if settings.arch else []
    if any(getattr(found.config, name) != PRESETS[settings.arch][name] for name in names):
        raise UserError(
            f"--arch {settings.arch}, but --weights {settings.weights} are of {architecture_options(found.config)}; leave --arch out, or "
            f"give --weights {NONE}"
        )
    return found


def chosen_recipe(settings: Settings, molecules: int) -> Recipe:
    """The table's recipe with what was asked for in its place."""
    found = recipe_for(molecules, settings.pretrained)
    return Recipe(*(getattr(settings, name) or value for name, value in found._asdict().items()))


def plan_one(
    data: Data,
    store_path: str,
    fold: str,
    store: Store,
    settings: Settings,
    start: Checkpoint | None,
    *,
    number: int,
    folder: str,
    splits: str = SPLITS,
    by_loss: bool | None = None,
) -> Member:
    """One member.

    Args:
        store_path: as the command names it. fold, store: of the file of splits. start: weights to begin with.
        number: of the fold's members; its seed is as much more than the settings'. folder: its own. splits: the file of splits.
        by_loss: whether the loss chooses the epoch; None where the score on these validation molecules may not be defined.
    """
    molecules = store.manifest.splits[TRAIN].molecules
    recipe = chosen_recipe(settings, molecules)
    updates = recipe.epochs * math.ceil(molecules / recipe.batch_size)
    warm_up = min(max(1, round(WARM_UP * updates)), updates - 1)  # the cosine needs an update of its own
    seed = settings.seed + number
    by_loss = not both_classes(data, store) if by_loss is None else by_loss
    architecture = f"--arch moleblend_{recipe.arch}" if start is None else architecture_options(start.config)
    scale = settings.output_scale or (OUTPUT_SCALE if settings.pretrained else 1.0)
    readout = settings.readout or (TOKEN if start is None else start.config.readout)
    all_of_store = len(data.targets) == len(store.manifest.labels)
    targets = [] if all_of_store else ["--targets", ",".join(label.name for label in data.targets)]
    words = (
        *(store_path, "--split-file", splits, "--fold", fold),
        *("--task", "moleblend_finetune", "--criterion", "property_prediction", *architecture.split()),
        *([] if readout == TOKEN else ["--readout", readout]),
        *([] if scale == 1 else ["--output-scale", f"{scale:g}"]),
        *([] if settings.start is None else [WEIGHTS, os.path.abspath(settings.start)]),
        *("--inputs", settings.inputs, *targets, "--regression-loss", settings.regression_loss),
        *(["--select-by", "loss"] if by_loss else []),
        *("--optimizer", "adam", "--lr", f"{recipe.lr:g}", "--lr-scheduler", "cosine"),
        *("--warmup-updates", str(warm_up), "--max-epoch", str(recipe.epochs), "--max-update", str(updates)),
        *(["--weight-decay", f"{settings.weight_decay:g}"] if settings.weight_decay else []),
        *([] if settings.dropout is None else ["--dropout", f"{settings.dropout:g}"]),
        *([] if settings.attention_dropout is None else ["--attention-dropout", f"{settings.attention_dropout:g}"]),
        *("--clip-norm", "5", "--batch-size", str(recipe.batch_size), "--seed", str(seed), "--num-workers", "0"),
        *("--save-dir", folder, "--log-format", "json", "--log-file", f"{folder}/{LOG}"),
    )
    return Member(name=Path(folder).name, folder=folder, fold=fold, seed=seed, words=words, updates=updates)


def both_classes(data: Data, store: Store) -> bool:
    """Whether ROC-AUC is defined for a target on the validation split; True for quantities."""
    if data.targets[0].kind != "classification":
        return True
    columns = [store.manifest.label_index(label.name) for label in data.targets]
    labels = all_labels(store, store.split(VALID))[:, columns]
    return any(len(np.unique(column[~np.isnan(column)])) == 2 for column in labels.T)


class Training:
    """Members under way.

    Args:
        out: the run's folder. members: all of them. jobs: how many at a time.
        show: called with (updates done in all, updates in all) now and then.
        kept: files that stay open for members, with their locks.
    """

    def __init__(self, out: Path, members: Sequence[Member], jobs: int, show: Callable[[int, int], None], *, kept: Sequence[int] = ()):
        self.out, self.members, self.jobs, self.show, self.kept = out, members, max(1, min(jobs, len(members))), show, kept
        self.threads = max(1, (len(os.sched_getaffinity(0)) if jobs else 1) // self.jobs)
        self.running: dict[str, subprocess.Popen] = {}
        self._slots: dict[str, int] = {}

    def run(self) -> None:
        """Train all that is not finished; UserError names a member that failed, and why."""
        waiting = [member for member in self.members if not finished(self.out, member)]
        by_name = {member.name: member for member in waiting}
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.jobs:
                    member = waiting.pop(0)
                    taken = {self._slots[name] for name in self.running}
                    self._slots[member.name] = next(slot for slot in range(self.jobs) if slot not in taken)
                    self.running[member.name] = start(self.out, member, self._slots[member.name], self.threads, kept=self.kept)
                wait_for_one(self.running.values(), POLL)
                for name, process in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[name]
                        check_end(self.out, by_name[name], process.returncode)
                self.show(sum(map(self.done, self.members)), sum(member.updates for member in self.members))
        finally:
            stop(self.running.values())
            self.running.clear()

    def done(self, member: Member) -> int:
        """Updates that a member has made, as its log has it."""
        if (self.out / member.folder / DONE).is_file():
            return member.updates
        return last_update(self.out / member.folder / LOG)


def finished(out: Path, member: Member) -> bool:
    """Whether a member was trained to its end by this very command."""
    return was_trained(out, member) and (out / member.folder / CHECKPOINT).is_file()


def was_trained(out: Path, member: Member) -> bool:
    """Whether this very command came to its end; the store and the weights may lie elsewhere now: `claim` knows that they are the same."""
    try:
        content = json.loads((out / member.folder / DONE).read_text("utf-8"))
        return _without_places(content["words"]) == _without_places(member.words)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _without_places(words: Sequence[str]) -> list[str]:
    """A member's words but for where the store and the weights to begin with lie."""
    result = list(words[1:])
    if WEIGHTS in result:
        result[result.index(WEIGHTS) + 1] = ""
    return result


def start(out: Path, member: Member, slot: int, threads: int, *, kept: Sequence[int] = ()) -> subprocess.Popen:
    """A process that trains a member, or goes on with it.

    Args:
        out: the run's folder. slot: which of those that run at a time; chooses the GPU. threads: of torch.
        kept: files that stay open for it, with their locks.
    """
    folder = out / member.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / COMMAND, member.command())
    (folder / COMMAND).chmod(0o755)
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    environment |= _device(slot)
    with open(folder / OUTPUT, "a") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "moleblend_fs.cli.main", "train", *member.words],
            cwd=out,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=tuple(kept),
            preexec_fn=_end_with_parent,
        )


def check_end(out: Path, member: Member, code: int) -> None:
    """Note that a member was trained to its end; UserError says why it was not."""
    folder = out / member.folder
    if code == 0 and not (folder / STOPPED).exists() and (folder / CHECKPOINT).is_file():
        write_atomically(folder / DONE, as_json({"words": list(member.words), "updates": member.updates}, indent=1) + "\n")
        return
    lines = [line for line in (folder / OUTPUT).read_text(errors="replace").splitlines() if line.strip()]
    reason = "it was told to stop" if code == 0 else f"exit code {code}" + (f": {lines[-1]}" if lines else "")
    raise UserError(f"member {member.name} did not finish ({reason}); all it said is in {folder / OUTPUT}; the same command goes on")


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Tell processes that train to save and end, and wait for them."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for_one(processes: Iterable[subprocess.Popen], seconds: float) -> None:
    """Return when one of some processes has ended, or after some time."""
    descriptors: list[int] = []
    try:
        for process in processes:
            if process.poll() is None:
                descriptors.append(os.pidfd_open(process.pid))
        select.select(descriptors, [], [], seconds if descriptors else 0)
    except ProcessLookupError:
        pass  # one has ended since, and another than us has waited for it
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def last_update(log: Path) -> int:
    """Number of the last update that a log tells of; 0 for none."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, log.stat().st_size - 20_000))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            content: Any = json.loads(line[line.index("{") :])
            for key in ("num_updates", "train_num_updates", "valid_num_updates"):
                if key in content:
                    return int(float(content[key]))
    return 0


def _device(slot: int) -> dict[str, str]:
    """With several GPUs each member has one of its own."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    given = visible.split(",") if visible else [str(i) for i in range(_gpus())]
    return {"CUDA_VISIBLE_DEVICES": given[slot % len(given)]} if given and given != [""] and _gpus() else {}


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def default_jobs(members: int) -> int:
    """Members at a time: one for each GPU, or for each core."""
    return max(1, min(members, _gpus() or len(os.sched_getaffinity(0))))


def _end_with_parent() -> None:
    """A member is told to stop, after a checkpoint, also where its parent is killed."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
