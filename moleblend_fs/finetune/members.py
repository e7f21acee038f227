"""Members: each is one `moleblend train` command over a fold of the store. `member_processes` runs them."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.checkpoint.weights_by_name import NONE
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.data.splits import TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data import Data
from moleblend_fs.finetune.recipes import OUTPUT_SCALE, Recipe, recipe_for
from moleblend_fs.finetune.run_folder import MEMBERS, SPLITS
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.model.config import HEAD_SIZES, PRESETS, TOKEN, architecture_options
from moleblend_fs.shared_options import RIDGE

FOLDER, LOG, CHECKPOINT = MEMBERS, "train.log", "checkpoint_best.pt"
SCRIPT = '#!/bin/sh\n# Trains this member, and goes on where it was stopped.\ncd "$(dirname "$0")/../.." || exit 1\n'
WEIGHTS = "--finetune-from-model"
WARM_UP = 0.1
"""Share of the updates in which the learning rate rises."""


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


def chosen_recipe(settings: Settings, molecules: int, kind: str) -> Recipe:
    """The table's recipe with what was asked for in its place."""
    found = recipe_for(molecules, settings.pretrained, kind)
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
    recipe = chosen_recipe(settings, molecules, data.targets[0].kind)
    updates = recipe.epochs * math.ceil(molecules / recipe.batch_size)
    warm_up = min(max(1, round(WARM_UP * updates)), updates - 1)  # the cosine needs an update of its own
    seed = settings.seed + number
    by_loss = not both_classes(data, store) if by_loss is None else by_loss
    architecture = f"--arch moleblend_{recipe.arch}" if start is None else architecture_options(start.config)
    scale = settings.output_scale or (OUTPUT_SCALE if settings.pretrained and not settings.fitted_head else 1.0)
    readout = settings.readout or (TOKEN if start is None else start.config.readout)
    names, stored = ([label.name for label in labels] for labels in (data.targets, store.manifest.labels))
    targets = [] if names == stored else ["--targets", ",".join(names)]
    words = (
        *(store_path, "--split-file", splits, "--fold", fold),
        *("--task", "moleblend_finetune", "--criterion", "property_prediction", *architecture.split()),
        *([] if readout == TOKEN else ["--readout", readout]),
        *([] if scale == 1 else ["--output-scale", f"{scale:g}"]),
        *(["--head-start", RIDGE] if settings.fitted_head else []),
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
