"""Representations that checkpoints give, run by torch."""

import os
from functools import partial
from pathlib import Path

from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.checkpoint.weights_by_name import located
from moleblend_fs.data.model_description import PREDICTED
from moleblend_fs.errors import UserError
from moleblend_fs.inference.device import device_of
from moleblend_fs.inference.forward import Forward, ReadOff, atom_means, atom_tokens, distances, graph_tokens
from moleblend_fs.inference.predict import check_weights
from moleblend_fs.model.predicted_distances import DISTANCE_HEAD
from moleblend_fs.predictions.checkpoint_model import ABOUT, open_predictive

READ_OFF: dict[str, ReadOff] = {"graph": graph_tokens, "mean": atom_means, "atom": atom_tokens, "distances": distances}


class CheckpointRepresentations:
    """See `embedder.Represents`.

    Args:
        path: checkpoint, or a folder of `moleblend finetune`, of which `member` is taken.
        inputs: that the model is to read; by default those of a finetuned model, else "2d".
        layer: after how many blocks; all by default.
    """

    def __init__(self, path: str | os.PathLike, *, member: int, inputs: str | None, layer: int | None, device: str | None):
        self.device = device_of(device)
        self.described = checkpoint_of(located(path), member)
        config, finetuned = self.described.config, self.described.finetuned
        self.inputs = inputs or ("2d" if finetuned is None else finetuned.inputs)
        self.width, self._layer = config.embed_dim, layer
        if self.inputs == PREDICTED and not config.predicted_3d:
            raise UserError(f"{path} was not finetuned with inputs {PREDICTED}; choose others")
        if layer is not None and not 0 <= layer <= config.layers:
            raise UserError(f"layer must lie in 0 to {config.layers}, the blocks of this model, got {layer}")
        self._model = self.described.build()

    def computing(self, level: str, tokens: int, precision: str) -> Forward:
        config = self.described.config
        if level == "distances" and not (config.predicted_3d or DISTANCE_HEAD in config.heads):
            raise UserError(
                f"{self.described.about.get('file')} has no head that predicts distances; one pretrained with --geometry-target distance "
                "has (displacements are predicted but for their length)"
            )
        alone = level == "distances"  # sizes of the pair heads are not those that `Forward` looks at
        read_off = READ_OFF[level] if alone else partial(READ_OFF[level], blocks=self._layer)  # type: ignore[call-arg]
        return Forward([self._model], self.device, self.inputs, read_off, tokens, apart=alone, precision=precision)


def checkpoint_of(path: Path, member: int = 0) -> Checkpoint:
    """A checkpoint, or a member of a run folder."""
    if not (path / ABOUT).is_file():
        checkpoint = load(path)
        check_weights(checkpoint)
        return checkpoint
    members = open_predictive(path).members
    if not 0 <= member < len(members):
        raise UserError(f"{path} has members 0 to {len(members) - 1}, got {member}")
    return members[member]
