"""Digests of the sources that patches were written for. `python -m tests.support.pins` shows those that are not what is pinned."""

import ast
import hashlib
import importlib.util
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def patch_files() -> list[Path]:
    """All files of the folders called `patches`."""
    found = [path for room in ("moleblend_fs", "fairseq_plugins") for path in (ROOT / room).rglob("patches/*.py")]
    return sorted(path for path in found if path.name != "__init__.py")


def pins_of(path: Path) -> dict[str, str]:
    """`PINS` of a file, without importing it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PINS":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path.relative_to(ROOT)} has no PINS: which code does it replace or rely on?")


def is_digest(pin: str) -> bool:
    """Not the name of a test."""
    return not pin.startswith("test_")


def source(name: str) -> str | None:
    """Of a module's function, class, method or constant, given by its full name; None where there is none.

    The file is read, not imported: what runs may have been replaced already.
    """
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    while parts and (folder / parts[0]).is_dir() and (folder / parts[0] / "__init__.py").exists():
        folder /= parts.pop(0)
    file = folder / f"{parts[0]}.py" if parts and (folder / f"{parts[0]}.py").exists() else folder / "__init__.py"
    inside = parts[1:] if file.name != "__init__.py" else parts
    text = file.read_text()
    node: ast.AST | None = ast.parse(text)
    for part in inside:
        node = next((child for child in ast.iter_child_nodes(node) if part in names_of(child)), None) if node is not None else None
    return ast.get_source_segment(text, node) if node is not None and inside else None


def digest(name: str) -> str | None:
    """Of `source`; None where there is none."""
    text = source(name)
    return None if text is None else hashlib.sha256(textwrap.dedent(text).encode()).hexdigest()[:12]


def names_of(node: ast.AST) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def moved(path: Path) -> dict[str, tuple[str, str | None]]:
    """What is not as a file's pins say: name -> (pinned, found)."""
    return {name: (pin, found) for name, pin in pins_of(path).items() if is_digest(pin) and (found := digest(name)) != pin}


if __name__ == "__main__":
    for file in patch_files():
        for name, (pin, found) in moved(file).items():
            print(f"{file.relative_to(ROOT)}: {name}: {pin or 'nothing'} is pinned, found {found}")
