"""Adam's moments as ZeRO spreads them: a file per process, in a folder beside the checkpoints that name it.

    checkpoint_last.pt, checkpoint_best.pt        weights, and the name of the folder
    optimizer/00001200-5f3a9c/0-of-4.pt           moments of process 0: pieces of parameters, by name

A folder is written before any checkpoint names it and removed after none does, so that each checkpoint under its final name is
complete. Any number of processes reads it, each only the pieces that it needs. What else lies beside these folders or in them is
never touched.
"""

import logging
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moleblend_fs.checkpoint.adam_state import MOMENTS, AdamState
from moleblend_fs.checkpoint.read import read_torch_file
from moleblend_fs.checkpoint.write import is_torch_file, is_unfinished, raise_on_all, save_torch_file
from moleblend_fs.errors import UserError
from moleblend_fs.files import flush_names

logger = logging.getLogger(__name__)

FOLDER = "optimizer"
_NAME = re.compile(r"\d{8,}-[0-9a-f]{6}")
_FILE = re.compile(r"\d+-of-\d+\.pt")


@dataclass(frozen=True)
class Piece:
    """A part of a flattened parameter's moments.

    Attributes:
        start: of the part in the flattened parameter.
        moments: by key of `MOMENTS`, 1-D float32.
    """

    start: int
    moments: Mapping[str, Tensor]

    @property
    def stop(self) -> int:
        return self.start + len(next(iter(self.moments.values())))


@dataclass(kw_only=True)
class StoredMoments:
    """A folder of moments that was read; tensors stay on the disk until they are used.

    Attributes:
        step: updates done.
        pieces: by parameter, in the order of their starts.
        options: learning rate, betas and so on.
        loss_scale: of fp16, or None.
    """

    step: int
    pieces: Mapping[str, Sequence[Piece]]
    options: dict[str, Any] = field(default_factory=dict)
    loss_scale: float | None = None

    def piece(self, key: str, name: str, start: int, length: int) -> Tensor:
        """(length,) of a flattened parameter's moments; zeros where nothing was saved."""
        result = torch.zeros(length)
        for piece in self.pieces.get(name, ()):
            first, last = max(start, piece.start), min(start + length, piece.stop)
            if first < last:
                result[first - start : last - start] = piece.moments[key][first - piece.start : last - piece.start]
        return result

    def whole(self, shapes: Mapping[str, torch.Size]) -> AdamState:
        """All of it, in the parameters' shapes."""
        moments = {
            key: {name: self.piece(key, name, 0, shapes[name].numel()).view(shapes[name]) for name in self.pieces} for key in MOMENTS
        }
        return AdamState(step=dict.fromkeys(self.pieces, self.step), moments=moments, options=self.options, loss_scale=self.loss_scale)


def write(save_dir: str, update: int, pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """Write this process's pieces; to be called by all processes.

    Returns:
        What a checkpoint must hold to name the folder.

    Raises:
        UserError: (on all processes) one of them could not write; nothing is left behind.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    chosen = [f"{update:08d}-{secrets.token_hex(3)}"]
    dist.broadcast_object_list(chosen)
    folder, failure = Path(save_dir, FOLDER, chosen[0]), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_torch_file({name: {"start": piece.start, **piece.moments} for name, piece in pieces.items()}, folder / file_name(rank, ranks))
        flush_names(folder.parent)
    except (UserError, OSError) as error:
        failure = f"process {rank}: {error}"
    try:
        raise_on_all(failure)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {"shards": chosen[0], "ranks": ranks}


def file_name(rank: int, ranks: int) -> str:
    return f"{rank}-of-{ranks}.pt"


def read(checkpoint: str, named: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> StoredMoments:
    """The moments that a checkpoint names.

    Args:
        checkpoint: its path. named: its "last_optimizer_state".
        shapes: of the model's parameters.

    Raises:
        UserError: files are absent or unreadable, or are of other parameters.
    """
    name, ranks, step = (named.get(key) for key in ("shards", "ranks", "step"))
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or type(ranks) is not int or type(step) is not int:
        raise UserError(f"{checkpoint}: damaged (its optimizer's state is in {name!r}); copy it again, or start with --reset-optimizer")
    folder = Path(checkpoint).parent / FOLDER / name
    found: dict[str, list[Piece]] = {}
    for rank in range(ranks):
        path = folder / file_name(rank, ranks)
        for parameter, entry in _load(path, checkpoint).items():
            found.setdefault(parameter, []).append(_piece(entry, f"{path}: {parameter}"))
    for pieces in found.values():
        pieces.sort(key=lambda piece: piece.start)
    if step and {name: _covered(pieces) for name, pieces in found.items()} != {name: size.numel() for name, size in shapes.items()}:
        raise UserError(f"{folder}: moments of other parameters than this model's; start with --reset-optimizer")
    return StoredMoments(step=step, pieces=found, options=named["options"], loss_scale=named["loss_scale"])


def _piece(entry: Any, where: str) -> Piece:
    """What a file says of a part of a parameter."""
    moments: dict[str, Any] = {key: entry.get(key) for key in MOMENTS} if isinstance(entry, dict) else {}
    shapes = {m.shape if isinstance(m, Tensor) and m.dim() == 1 and m.is_floating_point() else None for m in moments.values()}
    if len(shapes) != 1 or None in shapes:
        raise UserError(f"{where}: not a part of Adam's moments; copy the folder again, or start with --reset-optimizer")
    if type(entry.get("start")) is not int or entry["start"] < 0:
        raise UserError(f"{where}: begins at {entry.get('start')!r}; copy the folder again, or start with --reset-optimizer")
    return Piece(entry["start"], moments)


def _load(path: Path, checkpoint: str) -> dict[str, dict[str, Any]]:
    try:
        return read_torch_file(path)
    except UserError as error:
        raise UserError(
            f"{checkpoint}: its optimizer's state is in {path.parent}, which is not whole ({error}); "
            "copy the folder along with the checkpoint, or start with --reset-optimizer"
        ) from error


def _covered(pieces: Iterable[Piece]) -> int:
    """Length of a flattened parameter that pieces (in order) cover without gaps."""
    stop = 0
    for piece in pieces:
        if piece.start > stop:
            break
        stop = max(stop, piece.stop)
    return stop


def is_ours(folder: Path) -> bool:
    """Whether `write` made a folder and nobody else put anything into it: by its name, and by names and contents of its files."""
    if folder.is_symlink() or not folder.is_dir() or _NAME.fullmatch(folder.name) is None:
        return False
    return all(is_unfinished(path) or (_FILE.fullmatch(path.name) is not None and is_torch_file(path)) for path in folder.iterdir())


def remove_unnamed(save_dir: str) -> list[Path]:
    """Remove folders that `write` made and no checkpoint names: of deleted checkpoints, and of a save that was killed; each is logged.

    A checkpoint counts under any name, and also in a folder within this one, to where somebody has put it aside.
    """
    folders = {path.name: path for path in Path(save_dir, FOLDER).glob("*") if is_ours(path)}
    if not folders:
        return []
    top = Path(save_dir)
    for path in [*top.glob("*"), *top.glob("*/*")]:
        named = path.suffix == ".pt" and path.parent == top
        if not path.is_file() or path.parent.name == FOLDER or not (named or is_torch_file(path)):
            continue
        try:
            folders.pop(named_folder(path), None)
        except UserError:
            if named:
                return []  # it might name any of them
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("removed %s: optimizer state that no checkpoint names", folder)
    return list(folders.values())


def named_folder(checkpoint: Path) -> str:
    """The folder that a checkpoint names, "" for none."""
    content = read_torch_file(checkpoint, tensors=False)
    stored = content.get("last_optimizer_state")
    return str(stored.get("shards", "")) if isinstance(stored, dict) else ""
