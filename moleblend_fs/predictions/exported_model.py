"""Exported models that predict, run by onnxruntime."""

import os
from dataclasses import dataclass
from pathlib import Path

from moleblend_fs.errors import UserError
from moleblend_fs.onnx_run.file import REMEDY, ExportedFile, open_exported
from moleblend_fs.onnx_run.forward import OnnxForward, ReadOff, atom_means, atom_tokens, graph_tokens
from moleblend_fs.predictions.calibration import Calibration
from moleblend_fs.predictions.domain import Domain
from moleblend_fs.predictions.predictive_model import Predictive


@dataclass(frozen=True, kw_only=True)
class Exported(Predictive):
    """A file of `moleblend export`."""

    file: ExportedFile

    def device(self, asked: str | None) -> str:
        return cpu_only(asked)

    def computing(self, device: str, tokens: int, precision: str = "float32") -> OnnxForward:
        float32_only(self.path, precision)
        return OnnxForward(self.file, tokens)

    def domain(self) -> Domain | None:
        smiles = self.file.exported.training_smiles
        return None if smiles is None else Domain(smiles)


def float32_only(path: Path, precision: str) -> None:
    """UserError for another precision."""
    if precision != "float32":
        raise UserError(f"{path}: an exported model computes in float32; leave --precision out, or use the model it was exported from")


def cpu_only(asked: str | None) -> str:
    """The device; UserError for another one."""
    if asked not in (None, "cpu"):
        raise UserError(f"--device {asked}: an exported model runs on the CPU; leave --device out, or use the model it was exported from")
    return "cpu"


def predicting(path: str | os.PathLike) -> Exported:
    """An exported model; UserError where it does not predict."""
    file = open_exported(path)
    if not file.exported.members:
        raise UserError(f"{path}: a pretrained model without a property head, for `moleblend embed`; finetune it and export that")
    try:
        calibration = None if file.exported.calibration is None else Calibration.from_content(file.exported.calibration)
    except ValueError as error:
        raise UserError(f"{path}: its calibration is damaged ({error}); {REMEDY}") from error
    return Exported(path=file.path, abouts=file.exported.members, described=file, files=(file.path,), calibration=calibration, file=file)


READ_OFF: dict[str, ReadOff] = {"graph": graph_tokens, "mean": atom_means, "atom": atom_tokens}


class ExportedRepresentations:
    """Representations by an exported model, after all of its blocks; see `embedder.Represents`."""

    def __init__(self, path: str | os.PathLike, *, member: int, inputs: str | None, layer: int | None, device: str | None):
        self.device = cpu_only(device)
        self.described = open_exported(path)
        about = self.described.exported
        if layer is not None:
            raise UserError(f"{path}: an exported model gives representations after all blocks; leave the layer out, or use the checkpoint")
        if inputs not in (None, about.inputs):
            raise UserError(f"{path} was exported for inputs {about.inputs}, got {inputs}; export it again with --inputs {inputs}")
        members = max(1, len(about.members))
        if not 0 <= member < members:
            raise UserError(f"{path} has members 0 to {members - 1}, got {member}")
        self.inputs, self.width, self._output = about.inputs, about.width, f"tokens_{member}"

    def computing(self, level: str, tokens: int, precision: str) -> OnnxForward:
        float32_only(self.described.path, precision)
        if level not in READ_OFF:
            raise UserError(f"{self.described.path}: an exported model gives no {level}; use the checkpoint that it was exported from")
        return OnnxForward(self.described, tokens, self._output, READ_OFF[level])
