"""Runs the notebooks of examples/notebooks from nothing and stores what they show; `--check` says what is different instead.

    python scripts/notebooks.py                  all of them; commit the result
    python scripts/notebooks.py NAME...          some
    python scripts/notebooks.py --check          exit code 1 where a cell fails, or shows something else than what is committed

They are committed with their outputs, since more people read them than run them. Trained models differ a little between machines, and
pictures in how they are written: a check compares what kinds of output each cell has, and printed lines without numbers.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "notebooks"
DATA = ("quickstart",)
"""Folders beside it that notebooks read."""
TIMEOUT = 600
"""Seconds that a cell may take."""


def names() -> list[str]:
    """All notebooks."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> Any:
    """A notebook as it is committed."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(notebook: Any) -> Any:
    """The notebook as a new kernel shows it, run in an empty folder beside the data.

    Raises:
        CellExecutionError: a cell failed.
    """
    result = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory(prefix="moleblend-notebook-") as folder:
        for name in DATA:
            Path(folder, name).symlink_to(FOLDER.parent / name)
        place = Path(folder, "notebooks")
        place.mkdir()
        old = dict(os.environ)
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{old['PATH']}"  # for `!moleblend`
        try:
            kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(Path(folder, "kernel")))
            NotebookClient(result, km=kernel, timeout=TIMEOUT, resources={"metadata": {"path": str(place)}}).execute()
        finally:
            os.environ.clear()
            os.environ.update(old)
    return cleaned(result)


def cleaned(notebook: Any) -> Any:
    """Without what differs from one run to the next for no reader's good."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs whose pieces of one stream are one: where they are cut depends on the time."""
    result: list[Any] = []
    for output in outputs:
        if result and output.output_type == "stream" == result[-1].output_type and output.name == result[-1].name:
            result[-1].text += output.text
        else:
            output.pop("metadata", None) if output.output_type == "stream" else output.update(metadata={})
            result.append(output)
    return result


def shape(cell: Any) -> list[str]:
    """What kinds of output a cell has, and the printed lines that have no number."""
    found = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            found.append(f"{output.name}: {without_numbers(output.text)}")
        elif output.output_type == "error":
            found.append(f"error: {output.ename}")
        else:
            found.append(", ".join(sorted(output.data)))
    return found


def without_numbers(text: str) -> str:
    """The lines of a text that have no digit."""
    return "\n".join(line for line in text.splitlines() if not re.search(r"\d", line))


def differences(committed: Any, now: Any) -> list[str]:
    """What a reader would see otherwise, a sentence for each cell."""
    if len(committed.cells) != len(now.cells):
        return [f"{len(committed.cells)} cells are committed, {len(now.cells)} were run"]
    return [
        f"cell {number} shows\n    {shape(new)}\nand is committed with\n    {shape(old)}"
        for number, (old, new) in enumerate(zip(committed.cells, now.cells, strict=True))
        if old.cell_type == "code" and shape(old) != shape(new)
    ]


def main(argv: list[str] | None = None) -> int:
    """Run them; 1 where one fails or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *names()], metavar="NAME")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(argv)
    wrong = 0
    for name in arguments.names or names():
        committed = read(name)
        try:
            now = executed(committed)
        except CellExecutionError as error:
            print(f"{name}: {error}", file=sys.stderr)
            wrong += 1
            continue
        if arguments.check:
            told = differences(committed, now)
            wrong += bool(told)
            print(*(f"{name}: {line}" for line in told or ["as committed"]), sep="\n")
        else:
            (FOLDER / f"{name}.ipynb").write_text(nbformat.writes(now) + "\n")
            print(f"{name}: written")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
