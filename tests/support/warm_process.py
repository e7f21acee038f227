"""A process forked from a warm server that becomes the one that was asked for: its folder, files, signals, variables, words and end."""

import atexit
import builtins
import contextlib
import fcntl
import logging
import multiprocessing.process
import os
import re
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

from tests.support.warm_likeness import OF_TRAINING, STARTED


def fit_any_file() -> None:
    """Open the standard streams anew, to be handed down: one that was first seen on a file would look for its place in a pipe."""
    kept = [os.dup(number) for number in range(3)]
    for number, end in zip((0, 1), os.pipe()):
        os.dup2(end, number)
    os.dup2(1, 2)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        about = {"encoding": getattr(sys, name).encoding, "errors": getattr(sys, name).errors, "closefd": False}
        stream = open(number, "w" if number else "r", buffering=1 if number == 2 else -1, **about)  # noqa: SIM115  for as long as it runs
        stream.buffer.raw.name = f"<{name}>"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for number, file in enumerate(kept):
        os.dup2(file, number)
        os.close(file)


def begin(told: dict[str, Any], asking: int, descriptors: list[int]) -> NoReturn:
    """Become the process that was asked for."""
    with contextlib.suppress(OSError):
        os.setpgid(0, os.getpgid(asking))
    if os.getpgid(0) != os.getpgid(asking):
        os.setsid()
    code = 1
    try:
        take_over(told, asking, descriptors)
        code = ended(told)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def take_over(told: dict[str, Any], asking: int, descriptors: list[int]) -> None:
    """The caller's folder, files, signals, variables and words."""
    status = Path(f"/proc/{asking}/status").read_text()
    os.chdir(f"/proc/{asking}/cwd")
    os.umask(int(re.search(r"^Umask:\s*(\d+)", status, re.MULTILINE)[1], 8))
    take_files(told["descriptors"], descriptors)
    sys.stdout.reconfigure(**told["printing"])
    take_signals(ignored=among(status, "SigIgn"), blocked=among(status, "SigBlk"))
    set_by_imports = {name: value for name, value in os.environ.items() if STARTED.get(name) != value}
    os.environ.clear()
    os.environ.update(set_by_imports | told["environment"])
    sys.argv, sys.orig_argv, sys.path[:] = told["argv"], told["orig_argv"], told["path"]
    sys.flags = SimpleNamespace(**{name: getattr(sys.flags, name) for name in dir(sys.flags) if not name.startswith("_")} | told["flags"])
    renew()
    if "fairseq_cli.train" in sys.modules:
        as_first_imported(os.environ)


def among(status: str, mask: str) -> set[int]:
    """Signals of a mask in a process's status."""
    bits = int(re.search(rf"^{mask}:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return {int(number) for number in signal.valid_signals() if bits >> (number - 1) & 1}


def take_signals(ignored: set[int], blocked: set[int]) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def take_files(numbers: list[int], descriptors: list[int]) -> None:
    """Open as these numbers what the caller has open, and nothing else."""
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 400) for descriptor in descriptors]
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in aside:
            with contextlib.suppress(OSError):
                os.close(number)
    for number, descriptor in zip(numbers, aside):
        os.dup2(descriptor, number)
    for descriptor in aside:
        os.close(descriptor)


def renew() -> None:
    """What a start would have found out or drawn anew."""
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()
    tempfile.tempdir = None
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def ended(told: dict[str, Any]) -> int:
    """Run the program, end threads and what is registered for the end, and write what is left; the exit code."""
    code = 0
    try:
        run(told)
    except SystemExit as exit_:
        code = exit_code(exit_)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            code = 120
    return code


def exit_code(exit_: SystemExit) -> int:
    if exit_.code is None or isinstance(exit_.code, int):
        return (exit_.code or 0) & 255
    print(exit_.code, file=sys.stderr)
    return 1


def as_first_imported(environment: dict[str, str]) -> None:
    """What our plugins do where training imports them, and would do now."""
    from fairseq_plugins import console

    console.hold_warnings()
    logging.getLogger("fairseq.utils").addFilter(lambda record: "has already been imported" not in str(record.msg))
    environment[OF_TRAINING] = "1"


def run(told: dict[str, Any]) -> None:
    """What Python does with what it is given."""
    main = ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    if told["kind"] == "module":
        if not told["flags"].get("safe_path"):
            sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(told["what"])
        return
    if not told["flags"].get("safe_path"):
        sys.path.insert(0, os.path.dirname(os.path.realpath(told["what"])) if told["kind"] == "file" else "")
    if told["kind"] == "file":
        main.__file__, source = told["what"], Path(told["what"]).read_bytes()
    else:
        source = told["what"].encode()
    exec(compile(source, told["what"] if told["kind"] == "file" else "<string>", "exec"), main.__dict__)
