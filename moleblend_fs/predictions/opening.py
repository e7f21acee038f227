"""What a path that is to predict holds."""

import os

from moleblend_fs.predictions.predictive import Predictive


def open_model(path: str | os.PathLike) -> Predictive:
    """A checkpoint, or a folder of `moleblend finetune`.

    Raises:
        UserError: it is none of these, has no property head, or its members do not fit together.
    """
    from moleblend_fs.predictions.model import open_predictive

    return open_predictive(path)
