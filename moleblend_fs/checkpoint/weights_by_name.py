"""Published weights by name: those that come with the package, and those in the folders that `MOLEBLEND_WEIGHTS` names."""

import os
import re
from pathlib import Path
from typing import Any

from moleblend_fs.data.model_description import reads_structures
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import HEAD_SIZES, PRESETS

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""Files of a checkpoint folder, which published weights are too."""
FOLDERS = "MOLEBLEND_WEIGHTS"
"""Environment variable: folders, separated as in PATH, that hold a folder for each name."""
PACKAGED = Path(__file__).parents[1] / "weights"
NONE, DEFAULT = "none", "small"
"""The word for random weights; and the name of those that finetuning starts from where nothing is said and they fit."""
WITH_HYDROGENS = {"none": "without hydrogens as atoms", "explicit": "with hydrogens as atoms"}
NAME = re.compile(r"[A-Za-z0-9][\w-]*")


def folders() -> list[Path]:
    """Where names are looked for, the first that has one wins."""
    return [PACKAGED, *(Path(text) for text in os.environ.get(FOLDERS, "").split(os.pathsep) if text)]


def names() -> dict[str, Path]:
    """Name -> folder of all weights that there are, whole or not."""
    found: dict[str, Path] = {}
    for folder in folders():
        for place in sorted({path.parent for file in (CONFIG, WEIGHTS) for path in folder.glob(f"*/{file}")}):
            if is_name(place.name):
                found.setdefault(place.name, place)
    return found


def is_name(given: str) -> bool:
    """Whether this may be the name of weights: a word, where a path has a slash or an ending."""
    return NAME.fullmatch(given) is not None


def located(given: str | os.PathLike) -> Path:
    """The path of weights that are given by name or path; an `os.PathLike` is always a path.

    Raises:
        UserError: a word that is neither a name nor a path, or both.
    """
    if not isinstance(given, str) or not is_name(given):
        return Path(given)
    place, here = names().get(given), os.path.lexists(given)
    if place is not None and here:
        raise UserError(f"{given}: there are weights of this name ({place}), and a file or folder here; for the latter give ./{given}")
    if place is None and not here:
        raise UserError(f"{given}: no such checkpoint, and no weights of that name; {told()}")
    return Path(given) if place is None else place


def told() -> str:
    """Which names there are, and how to add some."""
    there = ", ".join(names()) or "none"
    looked = ", ".join(str(folder) + ("" if folder.is_dir() else " (no such folder)") for folder in folders()[1:])
    more = f", and in {looked} of {FOLDERS}" if looked else f"; {FOLDERS}=FOLDER names folders with more"
    return f"names that there are: {there} (in the package{more})"


def default_weights(*, arch: str, hydrogens: str, inputs: str) -> tuple[str, str]:
    """(`DEFAULT`, where there are weights of that name and they fit what is asked for, else `NONE`; why they do not fit, "" otherwise).

    Args:
        arch: of `PRESETS`, hydrogens: "explicit" or "none"; "" where nothing is asked for.
        inputs: of `data.model_description.INPUTS`; weights that were never shown a structure are no start for reading them.
    """
    place = names().get(DEFAULT)
    if place is None:
        return NONE, ""
    try:
        about: dict[str, Any] = read_json(place / CONFIG)
        size, trained_on = about["config"], about["trained_on"]
        if arch and any(size[name] != value for name, value in PRESETS[arch].items() if name not in HEAD_SIZES):
            return NONE, f"{DEFAULT} is of another size than --arch {arch}"
        if hydrogens not in ("", trained_on["hydrogens"]):
            return NONE, f"{DEFAULT} was pretrained {WITH_HYDROGENS.get(trained_on['hydrogens'], 'otherwise')}"
        if reads_structures(inputs) and trained_on["molecules_with_3d"] == 0:
            return NONE, f"{DEFAULT} was never shown a structure, which --inputs {inputs} reads"
    except (*READING, KeyError, TypeError):
        pass  # reading them says what is wrong
    return DEFAULT, ""
