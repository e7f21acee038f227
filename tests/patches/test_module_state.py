"""No module has state that changes while the program runs, unless the reason stands in its line: `# state: why`.

What `functools.cache` keeps is no state: it follows from the arguments.
"""

import ast

from tests.support.pins import ROOT

SOURCES = sorted(path for room in ("moleblend_fs", "fairseq_plugins") for path in (ROOT / room).rglob("*.py"))
CHANGING = {
    *("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"),
    *("addHandler", "setTarget", "flush", "write"),
}
"""Methods that change what they are called on."""
IMMUTABLE = {"Path", "TypeVar", "Struct", "Name", "ContextVar"}
"""Classes whose instances do not change, or (context variables, made for modules) only for as long as a `with` lasts."""


def defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """Names that a module's own lines assign, with the first of these lines."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    found.setdefault(name.id, node)
    return found


def changed(tree: ast.Module) -> set[str]:
    """Names that functions assign to as `global`, or whose value they change: by a method, an item, an attribute."""
    found = set()
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        local = {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
        local |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        shared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
        found |= shared
        for node in ast.walk(function):
            at: ast.expr | None = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
                at = node.func.value
            elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                at = node.value
            if isinstance(at, ast.Name) and at.id not in local - shared:
                found.add(at.id)
    return found


def stateful(text: str) -> list[tuple[int, str]]:
    """(line, name) of a module's state that changes without a reason in the line: what functions change, empty containers, instances."""
    tree, lines = ast.parse(text), text.splitlines()
    changes, found = changed(tree), []
    for name, node in defined(tree).items():
        value = getattr(node, "value", None)
        empty = isinstance(value, ast.List | ast.Dict | ast.Set) and is_literal(value) and not ast.literal_eval(value)
        if name in changes or empty or (isinstance(value, ast.Call) and name != name.upper() and makes_instance(value)):
            found.append((node.lineno, name))
    return [(line, name) for line, name in found if "# state: " not in lines[line - 1]]


def makes_instance(call: ast.Call) -> bool:
    """Whether a class is called, by its name, but for those whose instances do not change."""
    name = ast.unparse(call.func).split("[")[0].split(".")[-1]
    return name.lstrip("_")[:1].isupper() and name not in IMMUTABLE


def is_literal(value: ast.AST) -> bool:
    try:
        ast.literal_eval(value)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True


def test_a_module_s_state_has_its_reason():
    wrong = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in SOURCES for line, name in stateful(path.read_text())]
    assert not wrong, "state of a module that changes: keep it in an object that is passed in, or say why not in the line (# state: ...)"


def test_the_rule_finds_what_it_is_for():
    text = """
current = None
found = []
TABLE = {"a": 1}
CONSTANT = {"a": 1}
pattern = re.compile("x")
logger = logging.getLogger("x")
thing = Thing()
allowed = []  # state: because

def begin(x):
    global current
    current = x
    found.append(x)
    TABLE["b"] = 2

def other(TABLE, found):
    TABLE["c"] = 3
    pattern = {}
    pattern["d"] = 4
"""
    assert [name for _, name in stateful(text)] == ["current", "found", "TABLE", "thing"]
