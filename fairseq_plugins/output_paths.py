"""Where a run writes: looked at before anything else is done, so that what cannot be written is reported in one sentence."""

import os
import tempfile
from pathlib import Path

import torch.distributed as dist
from omegaconf import DictConfig

from moleblend_fs.checkpoint.write import raise_on_all
from moleblend_fs.errors import UserError
from moleblend_fs.files import told
from moleblend_fs.runtime import folder_lock
from moleblend_fs.runtime.stop_signals import check_marker


def take_save_dir(cfg: DictConfig) -> None:
    """Have the first rank lock --save-dir, for as long as it trains; to be called by all. A run that saves nothing needs no lock.

    Raises:
        SharedError: (on all ranks) another run has it.
    """
    failure = None
    if not cfg.checkpoint.no_save and (not dist.is_initialized() or dist.get_rank() == 0):
        try:
            folder_lock.current.take(cfg.checkpoint.save_dir)
        except UserError as error:
            failure = str(error)
    raise_on_all(failure)


def check_output_paths(cfg: DictConfig) -> None:
    """Make the folders of --save-dir, --tensorboard-logdir and --log-file; UserError names the one that cannot be written to."""
    make_folder("--save-dir", cfg.checkpoint.save_dir)
    check_marker(cfg.checkpoint.save_dir)
    if cfg.common.tensorboard_logdir:
        make_folder("--tensorboard-logdir", cfg.common.tensorboard_logdir)
    if cfg.common.log_file:
        path = Path(cfg.common.log_file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a"):
                pass
        except OSError as error:
            raise cannot_write("--log-file", path, error) from error


def make_folder(option: str, folder: str) -> None:
    """Make a folder, and see that a file can be written there; fairseq does so with a file "dummy", which a user's own may be called."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise cannot_write(option, folder, error) from error


def cannot_write(option: str, path: str | os.PathLike, error: OSError) -> UserError:
    return UserError(f"{option} {os.fspath(path)}: cannot be written ({told(error)})")


def error_of_system(error: OSError) -> UserError:
    """An error of the system that nobody expected, in one sentence."""
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return UserError(": ".join([*named, told(error)]))
