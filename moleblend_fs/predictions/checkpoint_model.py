"""Checkpoints that predict: one, or a folder of `moleblend finetune` with several of them."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.checkpoint.weights_by_name import CONFIG, WEIGHTS, located
from moleblend_fs.data.model_description import FinetunedFor
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.inference.device import device_of
from moleblend_fs.inference.forward import Forward, properties
from moleblend_fs.inference.predict import check_weights, property_head
from moleblend_fs.predictions.calibration import Calibration
from moleblend_fs.predictions.domain import Domain
from moleblend_fs.predictions.predictive_model import Predictive

ABOUT = "model.json"
FORMAT, VERSION = "moleblend-finetuned", 1
REMEDY = "copy the folder again, or run `moleblend finetune` again"


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Predictive):
    """Checkpoints, run by torch.

    Attributes:
        members: at least one.
        training_molecules: table of the molecules that were trained on, or None.
    """

    members: tuple[Checkpoint, ...]
    training_molecules: Path | None = None

    def device(self, asked: str | None) -> str:
        return device_of(asked)

    def computing(self, device: str, tokens: int, precision: str = "float32") -> Forward:
        models = [member.build() for member in self.members]
        return Forward(models, device, self.about.inputs, properties, tokens, precision=precision)

    def domain(self) -> Domain | None:
        return None if self.training_molecules is None else Domain.read(self.training_molecules)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    name: str
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunFolder:
    """What is read of `model.json`; the rest is for people."""

    format: str
    version: int
    members: tuple[_Member, ...]
    calibration: str | None = None
    training_molecules: str | None = None


def open_predictive(path: str | os.PathLike) -> Checkpoints:
    """Read a checkpoint or a run folder.

    Raises:
        UserError: it is neither, has no property head, or its members do not fit together.
    """
    path = located(path)
    if (path / ABOUT).is_file():
        return _open_run(path)
    checkpoint = load(path)
    about = property_head(checkpoint)
    check_weights(checkpoint)
    return Checkpoints(path=path, members=(checkpoint,), abouts=(about,), described=checkpoint, files=checkpoint_files(path))


def checkpoint_files(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint."""
    return (path / CONFIG, path / WEIGHTS) if path.is_dir() else (path,)


def _open_run(folder: Path) -> Checkpoints:
    run = _read_run(folder)
    paths = [_inside(folder, member.checkpoint) for member in run.members]
    members = tuple(load(path) for path in paths)
    abouts = tuple(property_head(member) for member in members)
    for member, about in zip(members, abouts, strict=True):
        check_weights(member)
        _check_alike(folder, members[0], abouts[0], member, about)
    calibration, training = (None if name is None else _inside(folder, name) for name in (run.calibration, run.training_molecules))
    return Checkpoints(
        path=folder,
        members=members,
        abouts=abouts,
        described=members[0],
        files=(folder / ABOUT, *(file for path in paths for file in checkpoint_files(path)), *filter(None, (calibration, training))),
        calibration=None if calibration is None else Calibration.read(calibration),
        training_molecules=training,
    )


def _read_run(folder: Path) -> _RunFolder:
    path = folder / ABOUT
    try:
        content = from_json(dict[str, Any], read_json(path))
        known = {name: content[name] for name in ("format", "version", "members", "calibration", "training_molecules") if name in content}
        if isinstance(known.get("members"), list):
            known["members"] = [{name: member[name] for name in ("name", "checkpoint")} for member in known["members"]]
        run = from_json(_RunFolder, known)
        if run.format != FORMAT or not run.members:
            raise ValueError(f"its format is {run.format!r}, with {len(run.members)} members")
    except (*READING, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a folder of `moleblend finetune` ({error}); {REMEDY}") from error
    if run.version != VERSION:
        raise UserError(f"{path}: of version {run.version}, this one reads {VERSION}; use the moleblend_fs that wrote it")
    return run


def _inside(folder: Path, name: str) -> Path:
    """A file of a run folder; UserError where it is not there or lies elsewhere."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise UserError(f"{folder / ABOUT} names {name!r}, which does not lie in the folder; {REMEDY}")
    if not (folder / place).exists():
        raise UserError(f"{folder / place}: missing, but {ABOUT} names it; {REMEDY}")
    return folder / place


def _check_alike(folder: Path, first: Checkpoint, theirs: FinetunedFor, member: Checkpoint, about: FinetunedFor) -> None:
    differing = [name for name in ("inputs", "targets", "kinds", "units") if getattr(theirs, name) != getattr(about, name)]
    if first.trained_on is not None and member.trained_on is not None:
        trained_on = ("hydrogens", "featurisation", "structures", "conformers")
        differing += [name for name in trained_on if getattr(first.trained_on, name) != getattr(member.trained_on, name)]
    if differing:
        raise UserError(f"{folder}: its members differ in {', '.join(differing)} ({member.about.get('file')}); {REMEDY}")
