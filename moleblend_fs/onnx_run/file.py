"""An exported model's file: the network, and in its metadata all that predictions need besides."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import onnxruntime

from moleblend_fs.data.model_description import FinetunedFor
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import told
from moleblend_fs.onnx_run.layout import INPUT_ARRAYS

KEY, DIGEST_KEY = "moleblend", "moleblend_sha256"
"""Of the metadata. The second one's value is the file's own SHA-256 with `NO_DIGEST` in the place of that value."""
NO_DIGEST = "0" * 64
FORMAT, VERSION = "moleblend-onnx", 1
REMEDY = "copy it again, or export it again with `moleblend export`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedAbout:
    """What a file says of its model.

    Attributes:
        inputs: "2d", "3d" or "2d+3d".
        members: what the property head of each is for; empty for a pretrained model, which gives representations alone.
        width: of representations.
        trained_on: the store that it was trained on, or None where that is not known.
        calibration: of a folder of `moleblend finetune`, as its file has it, or None.
        training_smiles: of the molecules that were trained on, or None.
        exported_from: name of the folder or file. version_of_moleblend_fs: that exported it.
        largest_difference: between its outputs and torch's, in units of what they are scaled by. compared: molecules of that.
    """

    inputs: str
    members: tuple[FinetunedFor, ...]
    width: int
    trained_on: TrainedOn | None
    calibration: Any = None
    training_smiles: tuple[str, ...] | None = None
    exported_from: str = ""
    version_of_moleblend_fs: str = ""
    largest_difference: float = 0.0
    compared: int = 0
    format: str = FORMAT
    version: int = VERSION

    def to_metadata(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_metadata(cls, text: str) -> "ExportedAbout":
        """The inverse; ValueError where it is something else, UserError where it is of a later version."""
        content = from_json(dict[str, Any], json.loads(text))
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}")
        if content.get("version") != VERSION:
            raise UserError(f"it is of version {content.get('version')}, this one reads {VERSION}; use the moleblend_fs that wrote it")
        trained_on = content.pop("trained_on", None)
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        about = from_json(cls, {**known, "trained_on": None})
        return about if trained_on is None else _with_trained_on(about, TrainedOn.from_json(trained_on))


def _with_trained_on(about: ExportedAbout, trained_on: TrainedOn) -> ExportedAbout:
    return ExportedAbout(**{field.name: getattr(about, field.name) for field in fields(about)} | {"trained_on": trained_on})


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A file, ready to be run; see `Described`."""

    path: Path
    exported: ExportedAbout
    session: onnxruntime.InferenceSession = field(repr=False)

    @property
    def finetuned(self) -> FinetunedFor | None:
        return self.exported.members[0] if self.exported.members else None

    @property
    def trained_on(self) -> TrainedOn | None:
        return self.exported.trained_on

    @property
    def about(self) -> dict[str, Any]:
        return {"file": str(self.path), "format": FORMAT}


def open_exported(path: str | os.PathLike) -> ExportedFile:
    """Read a file of `moleblend export`.

    Raises:
        UserError: there is none, it is no ONNX file, damaged, or not one of ours.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({told(error)})") from error
    return open_bytes(content, path)


def open_bytes(content: bytes, path: Path) -> ExportedFile:
    """The same, of a file's content."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a batch a thread, see `OnnxForward`
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's are of many classes, which have nothing but Exception in common
        raise UserError(f"{path}: not a readable ONNX file ({_first_line(error)}); {REMEDY}") from error
    if KEY not in metadata:
        raise UserError(f"{path}: an ONNX file, but not one of `moleblend export`, which says how molecules are made for it; export it so")
    try:
        about = ExportedAbout.from_metadata(metadata[KEY])
        _check(about, session)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise UserError(f"{path}: its description is damaged ({error}); {REMEDY}") from error
    digest = metadata.get(DIGEST_KEY)  # files of earlier versions have none
    if digest is not None and digest_of(content, digest) != digest:
        raise UserError(f"{path}: damaged: its SHA-256 is not the one that was written with it; {REMEDY}")
    return ExportedFile(path=path, exported=about, session=session)


def digest_of(content: bytes, written: str) -> str:
    """The SHA-256 of a file whose last occurrence of `written`, a text as long as a digest, stands for none."""
    place, view = content.rfind(written.encode()), memoryview(content)
    found = hashlib.sha256(view[:place])
    found.update(NO_DIGEST.encode())
    found.update(view[place + len(NO_DIGEST) :])
    return found.hexdigest()


def _check(about: ExportedAbout, session: onnxruntime.InferenceSession) -> None:
    """ValueError where the description is not that of the network."""
    if strange := {given.name for given in session.get_inputs()} - INPUT_ARRAYS:
        raise ValueError(f"the network reads {', '.join(sorted(strange))}")
    outputs = {output.name: output.shape for output in session.get_outputs()}
    wanted = {f"tokens_{number}" for number in range(max(1, len(about.members)))} | ({"properties"} if about.members else set())
    if set(outputs) != wanted or outputs["tokens_0"][-1] != about.width:
        raise ValueError(f"the network gives {', '.join(outputs)}")
    for member in about.members:
        lists = (member.targets, member.kinds, member.units, member.mean, member.std)
        if {len(values) for values in lists} != {outputs["properties"][-1]} or member.inputs != about.inputs:
            raise ValueError("what it was finetuned for is not said of each of its outputs")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
