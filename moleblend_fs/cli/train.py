"""`moleblend train STORE OPTION...`: fairseq-train that finds our plugins from any folder."""

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import NoReturn

import moleblend_fs
from moleblend_fs.cli import standard_output
from moleblend_fs.errors import UserError

USER_DIR = Path(moleblend_fs.__file__).parent
"""What fairseq-train's `--user-dir` has to name."""


def run(options: list[str]) -> NoReturn:
    """Become fairseq-train with these options and `--user-dir`.

    The process is replaced, so that signals, exit codes and the processes that it starts are fairseq-train's. -P: no module that lies
    beside the command gets in the way.

    Raises:
        UserError: no option is given, or fairseq-train is not installed.
    """
    if not options:
        raise UserError("give a store and options, as docs/training.md tells them: moleblend train STORE --task TASK --arch ARCH ...")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", str(standard_output.__file__), str(fairseq_train()), *with_user_dir(options)])


def fairseq_train() -> Path:
    """The command of the installed fairseq; UserError where there is none."""
    try:
        files = importlib.metadata.files("ve-fairseq") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "fairseq-train":
            return Path(str(file.locate()))
    raise UserError("fairseq-train is not installed in this environment; pip install ve-fairseq")


def with_user_dir(options: list[str]) -> list[str]:
    """Options with `--user-dir`: a folder of the user's own stays; "moleblend_fs", from wherever, is this package's folder."""
    words = iter(options)
    kept, given = [], None
    for word in words:
        if word == "--user-dir":
            given = next(words, "")
        elif word.startswith("--user-dir="):
            given = word.removeprefix("--user-dir=")
        else:
            kept.append(word)
    own = given is not None and Path(given).name != USER_DIR.name
    return [*kept, "--user-dir", str(given if own else USER_DIR)]
