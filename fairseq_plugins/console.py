"""What a training process says, and where.

The console and --log-file have what matters: losses, scores, checkpoints, warnings of ours, and how long it will take. All of it, with
the configuration, the model's layers and the warnings of libraries, goes to `details.log` in --save-dir.
"""

import contextlib
import logging
import logging.handlers
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import fairseq
import torch.distributed as dist
from omegaconf import DictConfig

import fairseq_plugins
import moleblend_fs
from fairseq_plugins import output_paths
from moleblend_fs.files import told

DETAILS = "details.log"
FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
DATES = "%Y-%m-%d %H:%M:%S"
FACTS = "fairseq_plugins.facts"
"""Logger of what a run is: written to --log-file and the details, not shown."""
LIBRARIES = ("py.warnings", "DeepSpeed")
"""Loggers of others that are set apart: Python's warnings, and one that prints past the others."""
SOURCES = tuple(str(Path(str(module.__file__)).parent) + os.sep for module in (fairseq, moleblend_fs, fairseq_plugins))
"""Folders whose messages the console shows; with `fairseq_cli`, which lies beside fairseq."""
BESIDE = (
    "Start iterating over samples",
    "num. expert model params",
    "begin dry-run validation",
    "Preparing to load checkpoint",
    "Preparing to save checkpoint",
    "Saved checkpoint",
    "loading train data for epoch",
    "grouped total_num_itrs",
    "task: ",
    "model: ",
    "criterion: ",
    "max tokens per device",
)
"""Beginnings of messages of fairseq's that say nothing, or what others say better."""
SECONDS_BETWEEN = 10.0
"""Between two lines about how long it will take."""

logger = logging.getLogger(__name__)
_held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)  # state: warnings that come before --save-dir is known
_undo: list[Any] = []  # state: logging has handlers for the whole process, which `end` takes away


class LogFile(logging.FileHandler):
    """A log file whose failure is reported once, where logging would print a traceback for every line.

    Args:
        option: that asked for the file: then the run ends. None: a warning, and the file ends there.
    """

    def __init__(self, path: str | os.PathLike, option: str | None = None):
        self.option = option
        self.failed = False
        super().__init__(path)

    def emit(self, record: logging.LogRecord) -> None:
        if not self.failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        self.failed = True
        if self.option is None:
            return logger.warning("%s ends here: %s", self.baseFilename, told(error))
        raise output_paths.cannot_write(self.option, self.baseFilename, error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # told already, or lost with nothing left that could tell it
            super().close()


def matters(record: logging.LogRecord) -> bool:
    """Whether the console shows a message."""
    if record.levelno >= logging.ERROR:
        return True
    if record.name in (*LIBRARIES, FACTS) or not isinstance(record.msg, str):  # fairseq logs its configuration and the model as they are
        return False
    own = record.pathname.startswith(SOURCES) or f"{os.sep}fairseq_cli{os.sep}" in record.pathname or record.name.startswith("fairseq")
    return own and not (record.levelno == logging.INFO and record.msg.startswith(BESIDE))


def hold_warnings() -> None:
    """Keep Python's warnings until it is known where to put them."""
    logging.captureWarnings(True)
    warnings = logging.getLogger("py.warnings")
    warnings.propagate = False
    warnings.addHandler(_held)


def begin(cfg: DictConfig) -> None:
    """Put this process's messages where they belong; only the first rank has files."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    for handler in [*logging.getLogger().handlers, *logging.getLogger("DeepSpeed").handlers]:
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
            handler.addFilter(matters)
            _undo.append(lambda handler=handler: handler.removeFilter(matters))
    if first:
        details = LogFile(Path(cfg.checkpoint.save_dir, DETAILS))
        details.setFormatter(logging.Formatter(FORMAT, DATES))
        _attach(details, None, *(["py.warnings"] if _held in logging.getLogger("py.warnings").handlers else []))
        if not logging.getLogger("DeepSpeed").propagate:
            _attach(details, "DeepSpeed")
        _held.setTarget(details)
        _held.flush()
        if cfg.common.log_file:
            # fairseq adds a handler for each epoch: lines would be written as often as there were epochs.
            _attach(LogFile(cfg.common.log_file, "--log-file"), "fairseq_cli.train", "fairseq.logging.progress_bar", FACTS)
    cfg.common.log_file = None


def _attach(handler: logging.Handler, *names: str | None) -> None:
    for name in names:
        logging.getLogger(name).addHandler(handler)
        _undo.append(lambda name=name: logging.getLogger(name).removeHandler(handler))
    _undo.append(handler.close)


def end() -> None:
    """Undo `begin`."""
    _held.setTarget(None)  # type: ignore[arg-type]
    while _undo:
        _undo.pop(0)()


class Timed(NamedTuple):
    """An update, and when it was done, in seconds of the monotonic clock."""

    update: int
    at: float


class Forecast:
    """Lines that say how fast training is and how long it will take."""

    def __init__(self) -> None:
        self.first: Timed | None = None
        self.said = 0.0

    def after(self, update: int, last: float, epoch: str, *, due: bool) -> None:
        """To be called after each update.

        Args:
            last: number of the last update, infinite where it is not known.
            epoch: which it is. due: whether a line may be written.
        """
        now = time.monotonic()
        if self.first is None:  # it takes longer than the others
            self.first, self.said = Timed(update, now), now
            return
        if due and now - self.said >= SECONDS_BETWEEN:
            self.said = now
            logger.info("%s", describe(update, last, epoch, (update - self.first.update) / (now - self.first.at)))


def describe(update: int, last: float, epoch: str, rate: float) -> str:
    """A line: 'update 120 of 600 (20 %), epoch 3: 2.31 updates/s, about 3 min 28 s to go'.

    Args:
        rate: updates/s.
    """
    if math.isinf(last):
        return f"update {update}, epoch {epoch}: {rate:.3g} updates/s"
    left = max(0.0, last - update) / rate
    return f"update {update} of {last:.0f} ({100 * update / last:.0f} %), epoch {epoch}: {rate:.3g} updates/s, about {duration(left)} to go"


def duration(seconds: float) -> str:
    """In the two largest units: '3 min 28 s'."""
    whole = round(seconds)
    units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)]
    parts: list[str] = []
    for unit, size in units:
        count, whole = divmod(whole, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def check_save_interval(cfg: DictConfig, words: list[str]) -> None:
    """Keep the best and the last checkpoint alone, unless one of the options that ask for those of each epoch is given."""
    asked = ("--save-interval", "--keep-last-epochs")
    if not any(word.split("=")[0] in asked for word in words):
        cfg.checkpoint.no_epoch_checkpoints = True
