"""Code of fairseq, DeepSpeed and torch that we replace or rely on: is it what it was when ours was written, and is it named?"""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
from pathlib import Path

import pytest

import fairseq_plugins
from tests.support.pins import ROOT, digest, is_digest, moved, patch_files, pins_of, source

FOREIGN = ("deepspeed", "fairseq", "fairseq_cli", "omegaconf", "torch")
DISTRIBUTIONS = {"deepspeed": "deepspeed", "omegaconf": "omegaconf", "fairseq": "ve-fairseq", "fairseq_cli": "ve-fairseq", "torch": "torch"}
SOURCES = sorted(path for room in ("moleblend_fs", "fairseq_plugins", "benchmarks", "scripts") for path in (ROOT / room).rglob("*.py"))
NOT_PRIVATE = {
    "_fields": "of named tuples",
    "_replace": "of named tuples",
    "_name": "a key of fairseq's configuration",
    "_exit": "of the module os",
    "_print_message": "of argparse, which drops what keeps it from printing",
    "_asdict": "of named tuples",
    "_ActionsContainer": "what argparse's parsers and groups have in common",
    "_core": "of numpy, where its pickles name it",
    "_reconstruct": "of numpy, where its pickles name it",
    "_python_dispatch": "of torch.utils: its documentation tells users to import TorchDispatchMode from there",
    "_pytree": "of torch.utils: beside the former",
    "_subclasses": "of torch: its documentation tells users to import FakeTensorMode from there",
    "_library": "of torch: what benchmarks/op_costs.py finds the Python of our own ops in",
    "_init_fn": "beside the former",
    "_CalcCrippenContribs": "of rdkit: the only way to the shares that benchmarks/explain.py compares with",
}
"""Names that begin with an underscore, and why anyone may use them."""


@pytest.mark.parametrize("path", patch_files(), ids=lambda path: f"{path.parts[-3]}.{path.stem}")
def test_what_a_patch_was_written_for_has_not_moved(path):
    packages = {name.split(".")[0] for name in pins_of(path)}
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    versions = ", ".join(f"{package} {importlib.metadata.version(DISTRIBUTIONS[package])}" for package in sorted(packages))
    changed = "".join(f"\n  {name}: {pin} was pinned, found {found or 'nothing'}" for name, (pin, found) in moved(path).items())
    assert not changed, (
        f"{path.relative_to(ROOT)} was written for other code than that of {versions}:{changed}\n"
        "Read what has changed there and whether the patch still holds; then pin what was found (python -m tests.support.pins)."
    )


def test_each_pin_of_compiled_code_names_a_test():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for path in patch_files():
        for name, pin in pins_of(path).items():
            assert is_digest(pin) or f"def {pin}(" in text, f"{path}: {name}: there is no {pin}"


def test_a_digest_is_of_the_source(tmp_path, monkeypatch):
    """It changes with the body of what is named, and of nothing else; what is not there has none."""
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    text = "LIMIT = 3\n\nclass A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n"
    (package / "module.py").write_text(text)
    importlib.invalidate_caches()
    before = {name: digest(f"toy_package.module.{name}") for name in ("LIMIT", "A", "A.f", "A.g", "A.h", "B")}
    assert [name for name, value in before.items() if value is None] == ["A.h", "B"]
    (package / "module.py").write_text(text.replace("return 2", "return 3"))
    after = {name: digest(f"toy_package.module.{name}") for name in before}
    assert [name for name in before if before[name] != after[name]] == ["A", "A.g"]
    patch = tmp_path / "patch.py"
    patch.write_text(f"PINS = {{'toy_package.module.A.f': '{before['A.f']}', 'toy_package.module.A.g': '{before['A.g']}'}}\n")
    assert moved(patch) == {"toy_package.module.A.g": (before["A.g"], after["A.g"])}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names() -> set[str]:
    """Private names that our own code gives: to functions, classes, variables, attributes of its instances, and modules."""
    found = {path.stem for path in SOURCES} | {"_paths"}  # an extension module
    for path in SOURCES:
        if path.parent.name == "patches":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
                found.add(node.attr)
    return found


def private_names(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, name) of private names that are imported, or read of something else than the class itself."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [
                (node.lineno, part) for name in [node.module or "", *(alias.name for alias in node.names)] for part in name.split(".")
            ]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, part) for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            found.append((node.lineno, node.attr))
    return [(line, name) for line, name in found if private(name)]


def modules_imported(tree: ast.AST) -> dict[str, str]:
    """Name in a file -> what it was imported as."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def replaced(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, text) of assignments to attributes of what was imported from foreign packages."""
    foreign = {name for name, source in modules_imported(tree).items() if source.split(".")[0] in FOREIGN}
    found = []
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Attribute) and ast.unparse(target).split(".")[0] in foreign:
                found.append((node.lineno, ast.unparse(target)))
    return found


def test_private_names_of_others_are_used_in_patches_alone():
    ours, wrong = own_names() | set(NOT_PRIVATE), []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        where = path.relative_to(ROOT)
        if path.parent.name != "patches":
            wrong += [f"{where}:{line}: {name}" for line, name in private_names(tree) if name not in ours]
            if path.is_relative_to(ROOT / "moleblend_fs") or path.is_relative_to(ROOT / "fairseq_plugins"):
                wrong += [f"{where}:{line}: {text} is replaced" for line, text in replaced(tree)]
        elif path.stem != "__init__":
            pinned = "".join(name + (source(name) or "") for name in pins_of(path))
            installed = all(importlib.util.find_spec(name.split(".")[0]) for name in pins_of(path))
            unpinned = [(line, name) for line, name in private_names(tree) if name not in ours and name not in pinned]
            wrong += [f"{where}:{line}: {name} is not in what PINS names" for line, name in unpinned if installed]
    assert not wrong


def test_the_rule_finds_what_it_is_for():
    tree = ast.parse("import torch\nfrom fairseq import utils\nfrom torch._C import x\ntorch._foreach_mul_(a)\nutils.f = g\nself._x = 1\n")
    assert private_names(tree) == [(3, "_C"), (4, "_foreach_mul_")]
    assert replaced(tree) == [(5, "utils.f")]


def test_private_methods_of_others_that_ours_replace_are_pinned():
    """Of every class that derives from one of fairseq's or torch's."""
    pinned = {name for path in patch_files() for name in pins_of(path)}
    seen, missing = 0, []
    for module in pkgutil.walk_packages(fairseq_plugins.__path__, "fairseq_plugins."):
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if found.__module__ != module.name:
                continue
            for name in filter(private, vars(found)):
                base = next((base for base in found.__mro__[1:] if name in vars(base) and base.__module__.split(".")[0] in FOREIGN), None)
                if base is not None and callable(getattr(found, name)):
                    seen += 1
                    full = f"{base.__module__}.{base.__qualname__}"
                    if not {full, f"{full}.{name}"} & pinned:
                        missing.append(f"{found.__qualname__}.{name} replaces {full}'s")
    assert not missing
    assert seen > 5
