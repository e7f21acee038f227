"""Replaces how torch's `DataLoader` (2.13) makes and asks its loader processes.

They outlive signals that are meant for the trainer, and one that fails, hangs or lacks what it needs is reported.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data._utils import MP_STATUS_CHECK_INTERVAL
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.errors import UserError
from moleblend_fs.files import told
from moleblend_fs.inference.predict import LOADER_TIMEOUT
from moleblend_fs.runtime.stop_signals import obey_only_parent, signals_blocked

PINS = {
    "torch.utils.data.dataloader.DataLoader._get_iterator": "7d99464767c8",
    "torch.utils.data.dataloader.DataLoader.__iter__": "805268756c69",
    "torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL": "bde786b29629",
    "torch.utils.data.dataloader._MultiProcessingDataLoaderIter": "8470fa03b6cb",
}
TENSORS = len(MoleculeBatch.__dataclass_fields__) + 1
"""Of a batch: each is an open file as long as the batch is held."""
PREFETCHED = 2
"""Batches that a loader process prepares ahead (torch's own number)."""
FILES_PER_PROCESS = 12
"""Pipes and queues of a loader process."""


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: batches of loader processes are open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_open_files(workers: int, held: int) -> None:
    """UserError if loader processes need more open files than the limit leaves: they would wait for ever.

    Args:
        workers: loader processes. held: batches that the trainer holds at a time.
    """
    if workers == 0:
        return
    needed = workers * (FILES_PER_PROCESS + PREFETCHED * TENSORS) + held * TENSORS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = limit - len(os.listdir("/proc/self/fd"))
    if needed > left:
        raise UserError(
            f"--num-workers {workers} needs up to {needed} open files, and the limit of {limit} leaves {max(0, left)}; "
            "raise it (ulimit -n), or use fewer: --num-workers 0 needs none"
        )


def failed(error: Exception) -> UserError:
    """What to say of a loader process that failed."""
    reason = str(error).strip().splitlines()[-1]
    if isinstance(error, ConnectionError):  # its end of the pipe is gone before torch sees that the process is
        reason = f"it exited unexpectedly: {told(error)}"
    return UserError(f"a loader process failed ({reason}); fewer --num-workers need less memory, --num-workers 0 none")


def is_of_loader(error: RuntimeError) -> bool:
    """Whether torch says that a loader process has died: it may say so anywhere, from the signal's handler."""
    return str(error).startswith("DataLoader worker")


class _Watched(_MultiProcessingDataLoaderIter):
    """Batches of loader processes, given up when none has come for long.

    torch's own `timeout` (2.13) would also put off looking for processes that have died, which is done every five seconds without it.
    """

    idle = 0.0

    def _try_get_data(self, timeout: float = MP_STATUS_CHECK_INTERVAL) -> tuple[bool, Any]:
        success, data = super()._try_get_data(timeout)  # type: ignore[misc]
        self.idle = 0.0 if success else self.idle + timeout
        if self.idle >= LOADER_TIMEOUT:
            raise RuntimeError(f"nothing has come for {LOADER_TIMEOUT} s")
        return success, data


class Loader(torch.utils.data.DataLoader):
    """A loader whose workers outlive a signal to their process group, so that the current update can be finished."""

    def __init__(self, dataset: Any, **options: Any):
        super().__init__(dataset, worker_init_fn=obey_only_parent, **options)

    def _get_iterator(self) -> Any:
        with signals_blocked() if self.num_workers else nullcontext():
            return _Watched(self) if self.num_workers else super()._get_iterator()

    def __iter__(self) -> Any:
        try:
            batches = super().__iter__()
        except OSError as error:
            raise UserError(f"loader processes cannot be started: {told(error)}") from error
        return self._given(batches) if self.num_workers else batches

    def _given(self, batches: Any) -> Iterator[Any]:
        """The batches; what went wrong in a loader process as a UserError."""
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except UserError as error:  # raised in a loader process: torch puts the traceback into its text
                raise UserError(str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")) from error
            except (RuntimeError, OSError) as error:
                raise failed(error) from error
            yield batch
