"""What docstrings, comments and pages name in backquotes is there: files, modules and what is in them, and identifiers."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

OF_OTHERS = {"allow_tf32"}
"""Identifiers of other packages that our docstrings name and our code does not use."""
TOLD = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILE = re.compile(r"(?<![\w/.*{}<>-])(?:\.{1,2}/)*([\w/.-]+\.py)\b")
PLACEHOLDER = re.compile(r"\bNAME\b|_NAME\b")
"""What instructions tell a contributor to fill in."""
SUFFIXES = ("csv", "html", "ipynb", "json", "lmdb", "md", "npz", "png", "py", "sh", "toml", "txt", "xz")
"""What ends names of files, which are no modules."""
PACKAGES = ("moleblend_fs", "fairseq_plugins", "benchmarks", "tests")


@cache
def files() -> list[str]:
    """All that git knows, and what is new."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


@cache
def tokens(name: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO((ROOT / name).read_text()).readline))


def told_in_code(name: str) -> Iterator[tuple[str, str]]:
    """(where, text) of docstrings and comments."""
    for token in tokens(name):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            yield f"{name}:{token.start[0]}", token.string


def told() -> Iterator[tuple[str, str]]:
    """(where, what stands in backquotes) of all code and pages; CHANGELOG.md tells of the past."""
    for name in files():
        texts: Iterator[tuple[str, str]] = iter(())
        if name.endswith(".py"):
            texts = told_in_code(name)
        elif name.endswith(".md") and name != "CHANGELOG.md":
            texts = iter([(name, (ROOT / name).read_text())])
        for where, text in texts:
            yield from ((where, found[1]) for found in TOLD.finditer(text))


def is_file(path: str) -> bool:
    """Whether a file ends with this path: pages name files from anywhere above them."""
    return any(name == path or name.endswith(f"/{path}") for name in files())


@cache
def names_in(module: Path) -> set[str]:
    """What can be asked of a module: all that it defines or imports, at any depth."""
    tree = ast.parse(module.read_text())
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found | {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


def is_there(dotted: str) -> bool:
    """Whether `room.module` or `room.module.name` exists; what does not begin with one of our folders is not looked at."""
    first, *rest = dotted.split(".")
    folder = ROOT / first if first in PACKAGES else ROOT / "moleblend_fs" / first
    if not folder.is_dir() or rest[-1] in SUFFIXES:
        return True
    while rest and (folder / rest[0]).is_dir():
        folder /= rest.pop(0)
    module = folder / f"{rest[0]}.py" if rest else folder
    if module.is_file():
        rest = rest[1:]
    else:
        module = folder / "__init__.py"
    return not rest or (module.is_file() and rest[0] in names_in(module))


@cache
def identifiers() -> set[str]:
    """All names of the code, of its files and folders, and the words of its texts that are no docstrings."""
    found: set[str] = set()
    for name in files():
        found |= {*Path(name).parts, Path(name).stem}
        if name.endswith(".py"):
            for token in tokens(name):
                if token.type == tokenize.NAME:
                    found.add(token.string)
                elif token.type == tokenize.STRING and not token.string.startswith('"""'):
                    found |= set(re.findall(r"\w+", token.string))
        elif name.endswith((".sh", ".sbatch", ".c", ".pyi", ".toml", ".yml")):
            found |= set(re.findall(r"\w+", (ROOT / name).read_text()))
    return found


def test_files_that_are_named_are_there():
    named = [(where, path) for where, text in told() if not PLACEHOLDER.search(text) for path in FILE.findall(text)]
    assert len(named) > 100, "files are named"
    assert [f"{where}: {path}" for where, path in named if not is_file(path)] == []


def test_modules_that_are_named_are_there():
    named = [(where, text) for where, text in told() if re.fullmatch(r"[a-z_]\w*(?:\.\w+)+", text)]
    assert len(named) > 50, "modules are named"
    assert [f"{where}: {text}" for where, text in named if not is_there(text)] == []


def test_identifiers_that_docstrings_name_are_there():
    """A function, module or option that was renamed lives on nowhere else; pages may name what is other people's."""
    code = (pair for name in files() if name.endswith(".py") for pair in told_in_code(name))
    named = [(where, found[1]) for where, text in code for found in TOLD.finditer(text) if re.fullmatch(r"[A-Za-z_]\w*", found[1])]
    assert len(named) > 300, "identifiers are named"
    known = identifiers() | OF_OTHERS
    assert [f"{where}: {name}" for where, name in named if name not in known] == []


@pytest.mark.parametrize("dotted", ["ops.layout", "ops.layout.Layout", "ops.attention.attention", "tests.docs.blocks", "not_ours.at_all"])
def test_what_is_there_is_found(dotted):
    assert is_there(dotted)


@pytest.mark.parametrize(
    "dotted", ["ops.lay_out", "ops.layout.Lay", "ops.attention.no_such", "moleblend_fs.nowhere", "data.record.old_name"]
)
def test_what_is_not_there_is_missed(dotted):
    assert not is_there(dotted)
