"""What a path that is to predict holds."""

import os

from moleblend_fs.data.onnx_detection import is_exported
from moleblend_fs.errors import UserError
from moleblend_fs.predictions.predictive_model import Predictive

LIGHT = ("torch", "safetensors")
"""What an installation for exported models alone lacks."""


def open_model(path: str | os.PathLike) -> Predictive:
    """A checkpoint, a folder of `moleblend finetune`, or an exported model. Only what is needed to run it is imported.

    Raises:
        UserError: it is none of these, has no property head, its members do not fit together, or what runs it is not installed.
    """
    try:
        if is_exported(path):
            from moleblend_fs.predictions.exported_model import predicting

            return predicting(path)
        from moleblend_fs.predictions.checkpoint_model import open_predictive

        return open_predictive(path)
    except ModuleNotFoundError as error:
        raise not_installed(error, path) from error


def not_installed(error: ModuleNotFoundError, path: str | os.PathLike) -> Exception:
    """The error for a model that cannot be run here; what was raised where that is something else."""
    if error.name == "onnxruntime":
        return UserError(f"{path}: an exported model runs on onnxruntime, which is not installed: pip install 'moleblend-fs[onnx]'")
    if error.name in LIGHT:
        return UserError(
            f"{path}: checkpoints need {error.name}, which is not installed: pip install 'moleblend-fs[train]'; "
            "without it, exported models (.onnx, see `moleblend export`) predict"
        )
    return error
