"""Standard output that cannot be written to: a full disk, or a reader that has gone. Told in a line, or not at all; never by a traceback.

Run as a program, it is fairseq-train so: `python standard_output.py FAIRSEQ-TRAIN OPTION...`.
"""

import argparse
import contextlib
import errno
import gc
import importlib
import logging
import os
import runpy
import sys
from types import ModuleType

GONE = 141
"""Exit code where the reader of a pipe has gone: as a shell tells of a program that SIGPIPE ended."""


class CannotPrint(OSError):
    """A message of a parser that could not be printed."""


def loudly() -> None:
    """Let argparse raise what keeps it from printing, which it drops, and logging drop it, which prints a traceback for each message."""
    logging.raiseExceptions = False

    def print_message(self: argparse.ArgumentParser, message: str, file=None) -> None:
        try:
            if message:
                (file or sys.stderr).write(message)
        except OSError as error:
            raise CannotPrint(error.errno, error.strerror) from error

    argparse.ArgumentParser._print_message = print_message  # type: ignore[method-assign]


def none_closed() -> None:
    """Open to nowhere what of standard input, output and error is closed. The next file that is opened would take its place otherwise, and
    get what is printed; and what is meant for standard error would be printed on standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  for as long as the program runs


def given_up() -> OSError | None:
    """Write what standard output still holds; where that fails, why, and what it holds is given up."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def import_for_good(module: str) -> ModuleType:
    """Import a module that the program stays with: garbage is not looked for meanwhile, and never among what is there then.

    Each full search goes through all objects, 300,000 of fairseq and torch; together they were a seventh of a short run.
    """
    if module in sys.modules:
        return importlib.import_module(module)
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def import_quickly(module: str) -> ModuleType:
    """Import a module of fairseq by `postponed_imports`, which is run by its path: the package is fairseq's to import, by `--user-dir`."""
    with runpy.run_path(os.path.join(os.path.dirname(__file__), "postponed_imports.py"))["postponed"]():
        return import_for_good(module)


def train() -> int | str | None:
    """Run fairseq-train, which the command line names; its exit code, or what it is where it could not print.

    It is not run as a program: this one stays the main program for processes that training starts, which begin like it.
    """
    sys.argv = sys.argv[1:]
    code: int | str | None = 0
    failed: OSError | None = None
    try:
        code = import_quickly("fairseq_cli.train").cli_main()  # as the program does; it sets up logging before anything else of fairseq
    except SystemExit as end:
        code = end.code
    except CannotPrint as error:
        failed = error
    failed = given_up() or failed
    if failed is None:
        return code
    if failed.errno == errno.EPIPE:
        return code or GONE
    with contextlib.suppress(OSError):
        print(f"moleblend train: standard output: {failed.strerror}; what was to be printed is lost", file=sys.stderr)
    return code or 2


if __name__ in ("__main__", "__mp_main__"):  # the latter in processes that training starts
    logging.raiseExceptions = False
if __name__ == "__mp_main__":
    import_quickly("fairseq")
if __name__ == "__main__":
    loudly()
    sys.exit(train())
