"""Checkpoints are written here: our folders, and torch files, which are whole or absent under their final names, whatever ends the process
or fills the disk."""

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from moleblend_fs.checkpoint.read import CHECKSUMS, Checkpoint, describe, hash_of_file, hash_of_json
from moleblend_fs.checkpoint.weights_by_name import CONFIG, WEIGHTS
from moleblend_fs.errors import UserError
from moleblend_fs.files import flush, flush_names, whole_folder, write_atomically

logger = logging.getLogger(__name__)

TEMPORARY = ".unfinished"
"""What a file's name ends with while it is written, after eight random digits that no other file has."""
_UNFINISHED = re.compile(rf".+\.pt\.[0-9a-f]{{8}}{re.escape(TEMPORARY)}")
_ARCHIVE = b"PK\x03\x04"
"""What torch's files begin with."""


class SharedError(UserError):
    """An error that all ranks raise together, with the same message: one of them tells it."""


@contextlib.contextmanager
def whole_or_absent(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name to write under; afterwards the file takes its final name, or is removed if anything went wrong.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush_names(path.parent)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and not is_write_error(error):
            raise
        raise UserError(f"{path} could not be saved ({reason(error, path)}); earlier checkpoints are as they were") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_write_error(error: RuntimeError) -> bool:
    """Whether torch's archive writer failed: it turns the system's errors into a RuntimeError."""
    return any(words in str(error) for words in ("PytorchStreamWriter", "file write failed", "inline_container"))


def reason(error: Exception, path: Path) -> str:
    """Why: a full disk said plainly, else the error."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < 2**20):
        return f"the disk is full, {shutil.disk_usage(path.parent).free >> 20} MiB are free"
    return str(error).splitlines()[0]


def save(checkpoint: Checkpoint, path: str | os.PathLike) -> None:
    """Write a new checkpoint folder, whole or not at all."""
    content = {**describe(checkpoint.config, checkpoint.finetuned, checkpoint.trained_on), "about": checkpoint.about}
    if checkpoint.card is not None:
        content["card"] = asdict(checkpoint.card)
    content = json.loads(json.dumps(content))  # lists for tuples, as they will be read
    with whole_folder(path) as folder:
        try:
            save_file({name: value.contiguous() for name, value in checkpoint.weights.items()}, folder / WEIGHTS)
            (folder / WEIGHTS).chmod(0o644)  # as all files are; safetensors lets only the owner read it
        except SafetensorError as error:  # of the system's error only the text is left
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error  # noqa: B904
        checksums = {WEIGHTS: hash_of_file(folder / WEIGHTS), CONFIG: hash_of_json(content)}
        write_atomically(folder / CONFIG, json.dumps({**content, CHECKSUMS: checksums}, indent=1) + "\n")


def save_torch_file(content: Any, path: str | os.PathLike) -> None:
    """torch.save, whole or absent."""
    with whole_or_absent(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def copy(source: str | os.PathLike, target: str | os.PathLike) -> bool:
    """The same content under a second name: at once by a hard link where the file system has them, else a copy."""
    with whole_or_absent(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    return True


def raise_on_all(failure: str | None) -> None:
    """Let all ranks, which all call this, know whether one of them could not write: the others would go on, and fail elsewhere.

    Raises:
        SharedError: (on all ranks) one could not.
    """
    failures = [failure]
    if dist.is_initialized():
        failures *= dist.get_world_size()
        dist.all_gather_object(failures, failure)
    if any(failures):
        raise SharedError("; ".join(dict.fromkeys(filter(None, failures))))


def is_torch_file(path: Path) -> bool:
    """Whether this is a file that torch wrote, or began to write and wrote nothing of; no link to one."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_ARCHIVE)) in (b"", _ARCHIVE)
    except OSError:
        return False


def is_unfinished(path: Path) -> bool:
    """Whether `whole_or_absent` was writing this file: by its name and by what it holds."""
    return _UNFINISHED.fullmatch(path.name) is not None and is_torch_file(path)


def remove_unfinished(folder: str | os.PathLike) -> list[Path]:
    """Remove what a killed process left under temporary names, and nothing else that ends like them; each is logged."""
    found = sorted(path for path in Path(folder).glob(f"*{TEMPORARY}") if is_unfinished(path))
    for path in found:
        path.unlink(missing_ok=True)
        logger.warning("removed %s, which an earlier run did not finish writing", path)
    return found
