"""Model checkpoints: a folder of safetensors weights and a JSON config; fairseq's and the reference release's files are read too."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moleblend_fs.checkpoint.model_card import ModelCard
from moleblend_fs.checkpoint.reference_release import ROOT, convert_weights, infer_config
from moleblend_fs.checkpoint.weights_by_name import CONFIG, PACKAGED, WEIGHTS, located
from moleblend_fs.data.model_description import FinetunedFor
from moleblend_fs.data.onnx_detection import refuse_exported
from moleblend_fs.data.run_detection import of_run
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.data.untrusted_torch import VARIABLE, read_torch
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import HEAD_SIZES, SIZE, ModelConfig, architecture_options
from moleblend_fs.model.heads import MoleculeHead
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shape_only import Unallocated
from moleblend_fs.objectives.registry import objectives
from moleblend_fs.wording import counted

HALF, HALVES = torch.float16, (torch.float16, torch.bfloat16)
"""Of weights that are published; docs/finetune.md says why not bfloat16."""
CHECKSUMS = "sha256"
AGAIN = "install the package again (pip install --force-reinstall --no-deps, from where it was installed), or give --weights none"
FAIRSEQ_PREFIX = "model."
"""What our parameters' names begin with inside a fairseq checkpoint."""


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """A model read from a file.

    Attributes:
        config: its size and heads.
        weights: its parameters; may lack those of modalities that the file never had.
        finetuned: what its property head is for, or None.
        trained_on: the store that it was trained on; None where the file does not say.
        about: where it comes from.
        card: of published weights, else None.
        pretraining: what a file of training says of its objective, see `objectives.objective.Objective.facts`.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    finetuned: FinetunedFor | None = None
    trained_on: TrainedOn | None = None
    about: dict[str, Any] = field(default_factory=dict)
    card: ModelCard | None = None
    pretraining: Mapping[str, Any] | None = None

    def build(self) -> MoleBlend:
        """The model in evaluation mode."""
        model = made(self.config)
        load_weights(model, self.weights, where=str(self.about.get("file", "checkpoint")), strict=True)
        return model.eval()


def made(config: ModelConfig) -> MoleBlend:
    """A model, with heads of any objective."""
    objectives()  # their heads are known once they are imported
    return MoleBlend(config)


def shapes_of(config: ModelConfig) -> dict[str, torch.Size]:
    """Shapes of a model's parameters, without allocating them."""
    with Unallocated():
        return {name: value.shape for name, value in made(config).state_dict().items()}


def check_architecture(here: ModelConfig, found: Checkpoint) -> None:
    """UserError with the options that fit if a checkpoint's encoder has another size, or heads that both have."""
    heads = set(here.heads) & set(found.config.heads) - {"property"}
    names = SIZE if heads else tuple(name for name in SIZE if name not in HEAD_SIZES)
    differing = [name for name in names if getattr(here, name) != getattr(found.config, name)]
    if differing:
        there = ", ".join(f"--{name.replace('_', '-')} {getattr(found.config, name)}" for name in differing)
        run = ", ".join(str(getattr(here, name)) for name in differing)
        raise UserError(
            f"{found.about.get('file', 'checkpoint')}: a checkpoint of another architecture: {there} there, {run} here; "
            f"what fits is {architecture_options(found.config, names)}"
        )


def check_shapes(model: MoleBlend, weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The model's own parameters; UserError if any has another shape in `weights`."""
    own = model.state_dict()
    for name, value in weights.items():
        if name in own and own[name].shape != value.shape:
            raise UserError(
                f"{where}: a checkpoint of another architecture: {name} is {tuple(value.shape)} there, {tuple(own[name].shape)} here"
            )
    return own


def load_weights(model: MoleBlend, weights: Mapping[str, Tensor], *, where: str, strict: bool) -> list[str]:
    """Copy weights into a model; UserError if a shape differs, or (strict) if one of the model's is absent.

    Returns:
        Parameters of the model that the weights did not have.
    """
    own = check_shapes(model, weights, where)
    missing = [name for name in own if name not in weights]
    if strict and missing:
        raise UserError(f"{where}: lacks {counted(len(missing), 'parameter')} of this model, e.g. {missing[0]}")
    model.load_state_dict({name: value for name, value in weights.items() if name in own}, strict=False)
    return missing


def hidden_of_molecules(found: Checkpoint) -> tuple[str, dict[str, Tensor]]:
    """What a property head may begin with, where a checkpoint has none: the hidden layer of the first head that read whole molecules.

    Weights that were published without their heads keep it under the property head's name.

    Returns:
        (name of the head, "" where there is none; the property head's parameters by their names).
    """
    begun = "heads.property.hidden."
    if "property" not in found.config.heads:
        if kept := {name: value for name, value in found.weights.items() if name.startswith(begun)}:
            return "property", kept
        with Unallocated():
            heads = made(found.config).heads
        for name, head in heads.items():
            if isinstance(head, MoleculeHead):
                own = f"heads.{name}.hidden."
                return name, {begun + key.removeprefix(own): value for key, value in found.weights.items() if key.startswith(own)}
    return "", {}


def describe(config: ModelConfig, finetuned: FinetunedFor | None, trained_on: TrainedOn | None) -> dict[str, Any]:
    """A model's description as JSON values."""
    return {
        "config": dataclasses.asdict(config),
        "finetuned": None if finetuned is None else dataclasses.asdict(finetuned),
        "trained_on": None if trained_on is None else trained_on.to_json(),
    }


def describe_from_json(content: Mapping[str, Any]) -> tuple[ModelConfig, FinetunedFor | None, TrainedOn | None]:
    """The inverse of `describe`; earlier versions did not write what a model was trained on.

    Raises:
        ValueError: a part that is not there, or is something else.
    """
    parts = {name: content.get(name) for name in ("config", "finetuned", "trained_on")}
    return (
        from_json(ModelConfig, parts["config"], "config"),
        None if parts["finetuned"] is None else from_json(FinetunedFor, parts["finetuned"], "finetuned"),
        None if parts["trained_on"] is None else TrainedOn.from_json(parts["trained_on"]),
    )


def check_fit(config: ModelConfig, finetuned: FinetunedFor | None, weights: Mapping[str, Tensor]) -> None:
    """ValueError if a description is not that of the weights, before a model is made by it."""
    if config.layers > len(weights):
        raise ValueError(f"{config.layers} layers, but {len(weights)} weights")
    shapes = shapes_of(config)
    for name, value in weights.items():
        if name in shapes and (shapes[name] != value.shape or not value.is_floating_point()):
            raise ValueError(f"{name} is {tuple(value.shape)} {value.dtype}, but the model's is {tuple(shapes[name])}")
    if finetuned is not None:
        lists = (finetuned.targets, finetuned.kinds, finetuned.units, finetuned.mean, finetuned.std)
        if {len(values) for values in lists} != {config.tasks}:
            raise ValueError(f"what it was finetuned for is not said of each of its {config.tasks} outputs")
        if not all(map(math.isfinite, finetuned.mean + finetuned.std)):
            raise ValueError("the mean or standard deviation that outputs are scaled by is no finite number")


def identity(checkpoint: Checkpoint) -> str:
    """A hash of a model's configuration and weights, whatever file they are in."""
    found = hashlib.sha256(hash_of_json(describe(checkpoint.config, None, None)).encode())
    for name, value in sorted(checkpoint.weights.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def hash_of_json(content: Mapping[str, Any]) -> str:
    """SHA-256 of a description, whatever the order of its names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint: published weights by name, our folder, a fairseq file of ours, or a file of the reference release.

    Weights are float32, whatever they are kept as. Runs no code from any of them.
    """
    path = located(path)
    if path.is_dir():
        return _load_folder(path)
    refuse_exported(path, "give the checkpoint or folder that it was exported from")
    content = read_torch_file(path)
    weights = content.get("model")
    if not isinstance(weights, Mapping) or not all(isinstance(n, str) and isinstance(value, Tensor) for n, value in weights.items()):
        raise UserError(f"{path}: not a model checkpoint (no table of weights under 'model')")
    if any(name.startswith(ROOT) for name in weights):
        return convert(weights, str(path))
    return _from_fairseq(path, content, weights)


def convert(weights: Mapping[str, Tensor], where: str) -> Checkpoint:
    """A checkpoint of the reference release under our names; `about` lists parameters that were not understood."""
    try:
        return _convert(weights, where)
    except Exception as error:  # weights of any shape
        reason = str(error) if isinstance(error, UserError) else f"its weights are not those of one model: {error}"
        raise UserError(f"{where}: {reason}") from error


def _convert(weights: Mapping[str, Tensor], where: str) -> Checkpoint:
    config = infer_config(weights)
    if config.layers > len(weights):
        raise UserError(f"{config.layers} layers, but {len(weights)} weights")
    shapes = shapes_of(config)
    ours, leftover = convert_weights(weights, shapes, config)
    return Checkpoint(config=config, weights=ours, about={"file": where, "format": "reference release", "not_understood": leftover})


def read_torch_file(path: Path, *, tensors: bool = True) -> dict[str, Any]:
    """A torch file's dictionary; see `read_torch`.

    Raises:
        UserError: no such file, no torch file, damaged, or one that asks for more than tensors and plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    content = read_torch(path, tensors=tensors)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint (holds a {type(content).__name__})")
    return content


def _load_folder(folder: Path) -> Checkpoint:
    again = "" if folder.parent == PACKAGED else "; copy it again"
    try:
        content = from_json(dict[str, Any], read_json(folder / CONFIG))
        checksums = from_json(dict[str, str], content.pop(CHECKSUMS, {}))
        if unknown := content.keys() - {"config", "finetuned", "trained_on", "about", "card"}:
            raise ValueError(f"{CONFIG} holds {sorted(unknown)[0]!r}")
        if "card" in content and not checksums:
            raise ValueError(f"published weights without their sums ({CHECKSUMS}); copy it again")
        if checksums and ("card" in content or os.environ.get(VARIABLE) != "0"):  # folders of earlier versions have none
            for name, found in ((CONFIG, hash_of_json(content)), (WEIGHTS, hash_of_file(folder / WEIGHTS))):
                if checksums.get(name) != found:
                    raise ValueError(f"damaged: {name} is not as it was written (its SHA-256 is another){again}")
        weights = {name: value.float() if value.dtype in HALVES else value for name, value in load_file(folder / WEIGHTS).items()}
        config, finetuned, trained_on = describe_from_json(content)
        check_fit(config, finetuned, weights)
        about = from_json(dict[str, Any], content["about"])
        card = from_json(ModelCard, content["card"], "card") if "card" in content else None
    except (*READING, KeyError, SafetensorError) as error:
        if folder.parent == PACKAGED:
            raise UserError(f"{folder}: the weights of the package are not whole ({error}); {AGAIN}") from error
        raise UserError(f"{folder}: not a checkpoint folder ({CONFIG} and {WEIGHTS} are needed): {error}{of_run(folder)}") from error
    about = {**about, "file": str(folder)}
    return Checkpoint(config=config, weights=weights, finetuned=finetuned, trained_on=trained_on, about=about, card=card)


def _from_fairseq(path: Path, content: dict[str, Any], weights: Mapping[str, Tensor]) -> Checkpoint:
    try:
        about = content["extra_state"]["moleblend"]
        updates = content["optimizer_history"][-1]["num_updates"]
        if not isinstance(about, Mapping) or type(updates) is not int:
            raise TypeError("no description")
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path}: neither a MoleBlend checkpoint nor one of the reference release") from error
    weights = {name.removeprefix(FAIRSEQ_PREFIX): value for name, value in weights.items()}
    try:
        config, finetuned, trained_on = describe_from_json(about)
        check_fit(config, finetuned, weights)
    except ValueError as error:
        raise UserError(f"{path}: a damaged MoleBlend checkpoint ({error}); copy it again") from error
    return Checkpoint(
        config=config,
        weights=weights,
        finetuned=finetuned,
        trained_on=trained_on,
        about={"file": str(path), "format": "fairseq", "updates": updates},
        pretraining=learned if isinstance(learned := about.get("pretraining"), Mapping) else None,
    )
