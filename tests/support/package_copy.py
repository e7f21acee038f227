"""A copy of the packages with something added, as CONTRIBUTING tells a newcomer to, and programs that run on it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Copy:
    """The packages in a folder, and files beside them.

    Args:
        added: path -> text of new files.
    """

    def __init__(self, folder: Path, added: Mapping[str, str]):
        self.folder = folder
        for name in ("moleblend_fs", "fairseq_plugins"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path, text in added.items():
            target = folder / path
            assert not target.exists(), f"{path} is there already"
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)

    def run(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """python with these words, on the copy."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), **settings}
        return subprocess.run([sys.executable, *words], cwd=self.folder, env=environment, capture_output=True, text=True)

    def moleblend(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """The command `moleblend`."""
        return self.run("-m", "moleblend_fs.cli.main", *words, **settings)
