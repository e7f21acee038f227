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
NAME = re.compile(r"[A-Za-z0-9][\w-]*")


def folders() -> list[Path]:
    """Where names are looked for, the first that has one wins."""
    return [PACKAGED, *(Path(text) for text in os.environ.get(FOLDERS, "").split(os.pathsep) if text)]


def names() -> dict[str, Path]:
    """Name -> folder of all weights that there are."""
    found: dict[str, Path] = {}
    for folder in folders():
        for place in sorted(folder.glob(f"*/{CONFIG}")):
            if NAME.fullmatch(place.parent.name):
                found.setdefault(place.parent.name, place.parent)
    return found


def located(given: str | os.PathLike) -> Path:
    """The path of weights that are given by name or path; an `os.PathLike` is always a path.

    Raises:
        UserError: a word that is neither a name nor a path, or both.
    """
    if not isinstance(given, str) or not NAME.fullmatch(given):
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


def default_weights(*, arch: str, hydrogens: str, inputs: str) -> str:
    """`DEFAULT`, where there are weights of that name and they fit what is asked for; else `NONE`.

    Args:
        arch: of `PRESETS`, hydrogens: "explicit" or "none"; "" where nothing is asked for.
        inputs: of `data.model_description.INPUTS`; weights that were never shown a structure are no start for reading them.
    """
    place = names().get(DEFAULT)
    if place is None:
        return NONE
    try:
        about: dict[str, Any] = read_json(place / CONFIG)
        size, trained_on = about["config"], about["trained_on"]
        fits = not arch or all(size[name] == value for name, value in PRESETS[arch].items() if name not in HEAD_SIZES)
        fits = fits and hydrogens in ("", trained_on["hydrogens"])
        fits = fits and (not reads_structures(inputs) or trained_on["molecules_with_3d"] > 0)
    except (*READING, KeyError, TypeError):
        return DEFAULT  # reading them says what is wrong
    return DEFAULT if fits else NONE
