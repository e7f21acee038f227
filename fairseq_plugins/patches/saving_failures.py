"""Replaces `fairseq.checkpoint_utils.save_checkpoint` and what it writes with (fairseq 0.12): files are whole or not there, and all ranks
hear of a failure.

fairseq's own is called for the names and the choice of the best. It copies a new checkpoint to its other names byte by byte: killed
meanwhile, it leaves half a checkpoint_last.pt.
"""

from typing import Any

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from omegaconf import DictConfig

from fairseq_plugins import output_paths
from fairseq_plugins.patches import resuming
from moleblend_fs.checkpoint import write, zero_moments
from moleblend_fs.errors import UserError

PINS = {
    "fairseq.checkpoint_utils.save_checkpoint": "b28ec07a2e67",
    "fairseq.checkpoint_utils.verify_checkpoint_directory": "355d2fd91313",
    "fairseq.file_io.PathManager.copy": "280ae0d5fc68",
    "fairseq.trainer.Trainer.save_checkpoint": "11135258d4b3",
}

_fairseq_save_checkpoint = checkpoint_utils.save_checkpoint


def install() -> None:
    """Put ours in their places."""
    checkpoint_utils.save_checkpoint = save_checkpoint
    checkpoint_utils.verify_checkpoint_directory = lambda folder: output_paths.make_folder("--save-dir", folder)
    PathManager.copy = staticmethod(lambda source, target, overwrite=False: write.copy(source, target))


def save_checkpoint(cfg: DictConfig, trainer: Any, epoch_itr: Any, val_loss: Any) -> str | None:
    """fairseq's, called by all ranks, of which only the first one writes the file.

    Raises:
        UserError: (on all ranks) it did not.
    """
    path, failure = None, None
    trainer.validation_due = val_loss is None and resuming.validates_here(trainer, epoch_itr)
    try:
        path = _fairseq_save_checkpoint(cfg, trainer, epoch_itr, val_loss)
    except UserError as error:
        failure = str(error)
    write.raise_on_all(failure)
    if trainer.is_data_parallel_master:
        zero_moments.remove_unnamed(cfg.save_dir)
    return path
