"""A model -> an ONNX file that predicts, or gives representations, without torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from moleblend_fs import __version__
from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.checkpoint.weights_by_name import located
from moleblend_fs.chem.conformers import ConformerOptions
from moleblend_fs.chem.smiles_to_graph import NO_CONFORMERS, BuildOptions
from moleblend_fs.data.graph import FEATURISATION_VERSION
from moleblend_fs.data.model_description import INPUTS, PREDICTED, Described, reads_structures
from moleblend_fs.data.record import summary
from moleblend_fs.data.trained_on import UNKNOWN
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.inference.forward import Forward, graph_tokens, properties
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.onnx_export.molecules import records_to_try
from moleblend_fs.onnx_export.network import OPSET, checked, network
from moleblend_fs.onnx_export.verify import LIMIT, check, largest_difference, outputs_of
from moleblend_fs.onnx_run import forward as onnx_run
from moleblend_fs.onnx_run.file import DIGEST_KEY, KEY, NO_DIGEST, ExportedAbout, digest_of, open_bytes
from moleblend_fs.onnx_run.forward import OnnxForward
from moleblend_fs.predictions.checkpoint_embeddings import checkpoint_of
from moleblend_fs.predictions.checkpoint_model import ABOUT, open_predictive
from moleblend_fs.predictions.domain import Domain
from moleblend_fs.predictions.hydrogens_and_structures import HYDROGENS, conformers_of

TOKENS = 16_384
LARGEST_FILE = 2_000_000_000
"""Bytes; protobuf, in which ONNX files are written, ends at 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class ToExport:
    """A model, and what is to be known of it.

    Attributes:
        members: checkpoints. about: of the file, but for what the comparison gives.
        training: SMILES of molecules that were trained on, where they are known.
    """

    members: tuple[Checkpoint, ...]
    about: ExportedAbout
    training: tuple[str, ...] = ()


def to_export(path: str | os.PathLike, *, inputs: str | None = None, training_molecules: bool = True) -> ToExport:
    """A checkpoint, pretrained or finetuned, the name of published weights, or a folder of `moleblend finetune`.

    Args:
        inputs: what a pretrained model is to read; "2d" by default. A finetuned one reads what it was finetuned with.
        training_molecules: whether the file is to hold their SMILES, to which predictions are compared.

    Raises:
        UserError: it cannot be read, or needs molecules that cannot be made without torch.
    """
    path = located(path)
    if not (path / ABOUT).is_file() and (checkpoint := checkpoint_of(path)).finetuned is None:
        return _pretrained(path, checkpoint, inputs or "2d")
    model = open_predictive(path)
    if inputs not in (None, model.about.inputs):
        raise UserError(f"{path} was finetuned with --inputs {model.about.inputs}, which are no choice any more; leave --inputs out")
    check_inputs(model.described, model.about.inputs)
    training = () if model.training_molecules is None else tuple(Domain.listed(model.training_molecules))
    about = ExportedAbout(
        inputs=model.about.inputs,
        members=model.abouts,
        width=model.members[0].config.embed_dim,
        trained_on=model.described.trained_on,
        calibration=None if model.calibration is None else model.calibration.content(),
        training_smiles=training if training and training_molecules else None,
    )
    return ToExport(members=model.members, about=_signed(about, path), training=training)


def _pretrained(path: Path, checkpoint: Checkpoint, inputs: str) -> ToExport:
    if inputs not in INPUTS:
        raise UserError(f"inputs must be one of {', '.join(INPUTS)}, got {inputs!r}")
    check_inputs(checkpoint, inputs)
    about = ExportedAbout(inputs=inputs, members=(), width=checkpoint.config.embed_dim, trained_on=checkpoint.trained_on)
    return ToExport(members=(checkpoint,), about=_signed(about, path))


def _signed(about: ExportedAbout, path: Path) -> ExportedAbout:
    return replace(about, exported_from=path.name, version_of_moleblend_fs=__version__)


def check_inputs(described: Described, inputs: str) -> None:
    """UserError where molecules cannot be made for a model by RDKit and this version."""
    then, file = described.trained_on, described.about.get("file")
    if inputs == PREDICTED:
        raise UserError(
            f"{file} reads distances that it predicts itself (inputs {PREDICTED}), which an exported file cannot; use the checkpoint"
        )
    if then is None:
        return
    if then.featurisation != FEATURISATION_VERSION:
        raise UserError(
            f"{file} was trained on features of version {then.featurisation}, this version makes those of version "
            f"{FEATURISATION_VERSION}; export it with the version that trained it"
        )
    if then.hydrogens not in (*HYDROGENS, UNKNOWN):
        raise UserError(f"{file} was trained on molecules with hydrogens {then.hydrogens!r}, which this version does not make")
    if reads_structures(inputs) and then.structures == "ETKDG":
        conformers_of(described)


def export(path: str | os.PathLike, out: Path, what: ToExport) -> ExportedAbout:
    """Write a whole file, after its outputs were compared with the model's; returns what it says of itself.

    Raises:
        UserError: it would be too large, its outputs differ, or it cannot be written.
    """
    models = [member.build() for member in what.members]
    check_size(path, models)
    proto = network(models, what.about.inputs, predicts=bool(what.about.members))
    checked(proto)
    difference, compared = compare(path, proto, models, what)
    about = replace(what.about, largest_difference=difference, compared=compared)
    write_atomically(out, _with_metadata(proto, about))
    return about


def check_size(path: str | os.PathLike, models: Sequence[MoleBlend]) -> None:
    """UserError where the weights alone are more than a file may hold."""
    numbers = sum(value.numel() for model in models for name, value in model.state_dict().items() if _is_exported(name))
    if 4 * numbers > LARGEST_FILE:
        several = "; export its members one by one (PATH/members/NAME/checkpoint_best.pt)" if len(models) > 1 else ""
        raise UserError(f"{path}: {4 * numbers / 1e9:.1f} GB of weights, an ONNX file holds at most {LARGEST_FILE / 1e9:g} GB{several}")


def _is_exported(name: str) -> bool:
    return not name.startswith("heads.") or name.startswith("heads.property.")


def compare(path: str | os.PathLike, proto: ModelProto, models: Sequence[MoleBlend], what: ToExport) -> tuple[float, int]:
    """The largest difference of outputs (of graph tokens, of a pretrained model), and the number of molecules; UserError if it is large."""
    described, inputs = what.members[0], what.about.inputs
    records = records_to_try(what.training, build_options(described, inputs))
    file = open_bytes(_with_metadata(proto, what.about), Path(path))
    predicts = bool(what.about.members)
    usable = [record for record in records if inputs != "3d" or summary(record)[1]]
    read_off = properties if predicts else graph_tokens

    def by_torch() -> np.ndarray:
        with Forward(models, "cpu", inputs, read_off, TOKENS) as forward:
            return outputs_of(forward, usable)

    expected = by_torch()
    with OnnxForward(file, TOKENS) if predicts else OnnxForward(file, TOKENS, "tokens_0", onnx_run.graph_tokens) as forward:
        found = outputs_of(forward, usable)
    difference = largest_difference(expected, found)
    if difference > LIMIT:
        for model in models:
            model.double()
        check(by_torch(), expected, found, str(path))
    return difference, len(usable)


def build_options(described: Described, inputs: str) -> BuildOptions:
    """Molecules as the model was trained on them; structures are made where it reads them, wherever those of its training are from."""
    then = described.trained_on
    conformers = NO_CONFORMERS
    if reads_structures(inputs):
        made = then is not None and then.structures == "ETKDG" and then.conformers is not None
        conformers = conformers_of(described) if made else ConformerOptions(count=1)
    return BuildOptions(hydrogens=then is not None and then.hydrogens == "explicit", conformers=conformers)


def _with_metadata(proto: ModelProto, about: ExportedAbout) -> bytes:
    del proto.metadata_props[:]
    proto.metadata_props.add(key=KEY, value=about.to_metadata())
    proto.metadata_props.add(key=DIGEST_KEY, value=NO_DIGEST)
    content: bytes = proto.SerializeToString(deterministic=True)
    place = content.rfind(NO_DIGEST.encode())
    return content[:place] + digest_of(content, NO_DIGEST).encode() + content[place + len(NO_DIGEST) :]


def told(out: Path, about: ExportedAbout) -> str:
    """What was written, in a line."""
    members = f"{len(about.members)} members" if len(about.members) > 1 else "a model" if about.members else "a pretrained model"
    unit = "of what its targets are scaled by" if about.members else "of its representations' unit"
    return (
        f"{out}: {members} of inputs {about.inputs}, ONNX opset {OPSET}, {out.stat().st_size / 1e6:.1f} MB; outputs differ from "
        f"torch's by at most {about.largest_difference:.1e} {unit} ({about.compared} molecules)"
    )
