"""What each Python that a test starts reads first: one that begins a command of ours hands over to a process that has imported what it
needs (`tests/support/warm_server.py`), passes signals on to it, and ends as it does.
All others begin as always, but that Triton's interpreter is hastened.

Next to nothing is imported here: it is paid at every start.
"""

import os
import sys

COMMANDS = {"moleblend": "commands", "fairseq-train": "training", "standard_output.py": "training"}
"""Program that Python is given -> what has been imported for it."""
MODULES = ("moleblend_fs.cli.main", "ipykernel_launcher")
RANK = "from multiprocessing.spawn import spawn_main; spawn_main("
"""How a rank begins that training starts itself."""


def wanted(words):
    """What is to be run for what Python is given, or None for a start as always."""
    for i, word in enumerate(words):
        rest = words[i + 1 :]
        if word in ("-P", "-u"):
            continue
        if word == "-m":
            return found("commands", "module", rest) if rest[0] in MODULES and rest[:2] != [MODULES[0], "train"] else None
        if word == "-c":
            return found("training", "code", [*rest[:1], "-c", *rest[1:]]) if rest[0].startswith(RANK) else None
        name = os.path.basename(word)
        starts_another = name == "moleblend" and rest[:1] == ["train"]
        return found(COMMANDS[name], "file", [word, word, *rest]) if name in COMMANDS and not starts_another else None
    return None


def found(imported, kind, words):
    return imported, {"kind": kind, "what": words[0], "argv": words[1:] if kind != "module" else words}


def hand_over(address, told):
    """End as the process does that was asked for; return where the server would rather have a start as always, or is not there."""
    import _signal
    import _socket
    import marshal
    import select
    from array import array

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except OSError:
        return
    told["descriptors"] = [number for number in map(int, os.listdir("/proc/self/fd")) if inherited(number)]
    sent = marshal.dumps(told)
    passed = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", told["descriptors"]))]
    connection.sendmsg([len(sent).to_bytes(4, "big")], passed)
    connection.sendall(sent)
    if connection.recv(1) != b"w":
        connection.close()
        return
    connection.setblocking(False)
    _signal.set_wakeup_fd(connection.fileno())  # the interpreter writes a signal's number there, whatever it is at
    for number in range(1, _signal.NSIG):
        if number not in NOT_PASSED_ON and _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, lambda number, frame: None)
    ended = select.poll()
    ended.register(connection, select.POLLIN)
    ended.poll()
    answer = connection.recv(4)
    if len(answer) != 4:
        os.kill(os.getpid(), _signal.SIGKILL)  # nobody knows how it ended
    status = int.from_bytes(answer, "big")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != _signal.SIGKILL:
            _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


NOT_PASSED_ON = (9, 17, 18, 19, 20, 21, 22, 28, 32, 33)
"""Signals that stop, go on, tell of children or of a terminal; the last two are the C library's."""


def inherited(number):
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


def begin():
    address = os.environ.get("MOLEBLEND_WARM_STARTS")
    work = wanted(sys.orig_argv[1:]) if address and sys.platform == "linux" else None
    if work is not None:
        imported, told = work
        flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if not name.startswith(("_", "n_"))}
        about = {"environment": dict(os.environ), "path": sys.path, "orig_argv": sys.orig_argv, "executable": sys.executable}
        about["printing"] = {name: getattr(sys.stdout, name, False) for name in ("line_buffering", "write_through")}
        hand_over(f"{address}.{imported}", told | about | {"flags": {n: v for n, v in flags.items() if isinstance(v, int)}})


class Hastened:
    """Finds Triton's interpreter, and hastens it (`tests/support/interpreter.py`)."""

    def find_spec(self, name, path, target=None):
        if name != "triton.runtime.interpreter":
            return None
        from importlib import util

        sys.meta_path.remove(self)
        found = util.find_spec(name)
        ours = util.spec_from_file_location("hastened", os.path.join(os.path.dirname(__file__), "..", "interpreter.py"))
        execute, hastened = found.loader.exec_module, util.module_from_spec(ours)

        def exec_module(module):
            execute(module)
            ours.loader.exec_module(hastened)
            hastened.hasten()

        found.loader.exec_module = exec_module
        return found


begin()
if os.environ.get("TRITON_INTERPRET") == "1":
    sys.meta_path.insert(0, Hastened())
