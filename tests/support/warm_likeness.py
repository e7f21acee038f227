"""Whether a process that is asked for would import what a warm one has, and is surrounded as that one is; else it begins as always."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "warm_starts"
"""What each Python that a test starts reads first."""
PACKAGE = Path(__file__).parents[2] / "moleblend_fs"
VARIABLE = "MOLEBLEND_WARM_STARTS"
"""Where the servers' sockets are, less what each has imported."""
OF_TRAINING = "MOLEBLEND_WARM_TRAINING"
"""Set for what a warm training starts."""
FREE = {
    *("LOCAL_RANK", "RANK", "WORLD_SIZE"),  # of a launcher
    *("PATH", "PYTHONPATH"),  # which are looked at otherwise
    *("PS1", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "COLUMNS", "LINES"),  # of a shell, and a notebook's
    *("OMP_WAIT_POLICY", "PYTEST_CURRENT_TEST", VARIABLE),  # one thread waits for none
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),  # scikit-learn sets them where it is imported, as in the process of the tests
    *("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"),  # read at the first product, which is after the fork
}
"""Variables that may differ although they are read at imports."""
FOUND = ("cc", "gcc", "g++", "nvcc", "ninja")
"""What packages look for in PATH, which may otherwise differ."""
READ_BY_LIBRARIES = ("OMP_", "MKL_", "KMP_", "LD_", "MALLOC_", "GLIBC_", "PYTHON", "ONEDNN_", "DNNL_", "LRU_", "TRITON_", "LC_", "LANG")
"""How variables begin that compiled code may have read."""
STARTED = dict(os.environ)
"""Variables before anything was imported."""
READ: dict[str, str | None] = {}
"""Variable that was read at imports -> its value then."""  # state: noted once, before anything is served


class Noting(os._Environ):
    """`os.environ` that notes what is asked for."""

    def __getitem__(self, name):
        frame = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__") in ("os", "collections.abc"):
            frame = frame.f_back
        if isinstance(name, str) and (frame is None or frame.f_globals.get("__name__") != "fsspec.config"):  # which looks at all
            READ.setdefault(name, STARTED.get(name))
        return super().__getitem__(name)


def same(told: dict[str, Any], pid: int) -> bool:
    """Whether a warm process can stand for the one that told this of itself."""
    return {0, 1, 2} <= set(told["descriptors"]) and same_imports(told) and same_surroundings(pid)


def same_imports(told: dict[str, Any]) -> bool:
    """Whether what was imported here is what the caller would import: the same interpreter, folders and variables."""
    there = told["environment"]
    compared = {**{name: STARTED.get(name) for name in {*there, *STARTED} if name.startswith(READ_BY_LIBRARIES)}, **READ}
    if any(there.get(name) not in (value, os.environ.get(name)) for name, value in compared.items() if name not in FREE):
        return False  # neither as it was, nor as what is imported has set it
    if any(shutil.which(name, path=there.get("PATH", "")) != shutil.which(name, path=STARTED.get("PATH")) for name in FOUND):
        return False
    folders = [Path(folder) for folder in told["path"] if folder not in sys.path and Path(folder) != FOLDER]
    return told["executable"] == sys.executable and not any(map(hides, folders)) and known(told)


def hides(folder: Path) -> bool:
    """Whether a folder has a module of the name of one that is imported here."""
    there = {path.name.partition(".")[0] for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(there & {name.partition(".")[0] for name in sys.modules})


def known(told: dict[str, Any]) -> bool:
    """Whether no other modules lie where Python looks first, and a program is one of those that it has been installed with."""
    folder = Path(told["folder"])
    if told["kind"] == "code":
        return OF_TRAINING in told["environment"]
    if told["kind"] == "module":
        return bool(told["flags"]["safe_path"]) or folder == PACKAGE.parent or not hides(folder)
    path, words = Path(told["what"]), told["argv"]
    if not path.is_absolute() or path.parent.resolve() not in (Path(sys.executable).parent, PACKAGE / "cli"):
        return False
    plugins = words[words.index("--user-dir") + 1 :][:1] if "--user-dir" in words else []
    return path.name == "moleblend" or [(folder / plugin).resolve() for plugin in plugins] == [PACKAGE]


def same_surroundings(pid: int) -> bool:
    """Whether a process has this one's limits, rights, name spaces and cores."""
    return surroundings(pid) == surroundings(os.getpid())


def surroundings(pid: int) -> list[str]:
    about = Path(f"/proc/{pid}")
    status = re.findall(r"^(?:Uid|Gid|Groups|CapEff|NoNewPrivs|Seccomp|Cpus_allowed):.*", (about / "status").read_text(), re.MULTILINE)
    spaces = [os.readlink(space) for space in sorted((about / "ns").iterdir())]
    return [*status, *spaces, (about / "limits").read_text(), (about / "cgroup").read_text(), str(os.getpriority(os.PRIO_PROCESS, pid))]
