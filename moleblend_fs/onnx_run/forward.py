"""Exported models run over batches, in threads; a molecule's numbers do not depend on what it is computed with."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import onnxruntime

from moleblend_fs.data.packed_arrays import joined
from moleblend_fs.onnx_run.file import ExportedFile
from moleblend_fs.onnx_run.layout import padded, padded_atoms

PAIRS_PER_TOKEN = 8
"""Padded ordered pairs of a batch, per token that it may have."""
SHORT_OF_MEMORY = ("bad allocation", "bad_alloc", "failed to allocate", "out of memory", "too large")
"""What onnxruntime says of it, in small letters."""
ReadOff = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(an output, atoms of each molecule) -> (members, molecules or atoms, k)."""


def properties(output: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
    """(members, B, tasks) outputs of the property heads."""
    return output


def graph_tokens(tokens: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
    """(1, B, d) representations of the graph tokens."""
    return tokens[None, :, 0]


def atom_means(tokens: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
    """(1, B, d) means of the representations of each molecule's atoms."""
    exists = np.arange(tokens.shape[1] - 1) < num_atoms[:, None]
    return ((tokens[:, 1:] * exists[:, :, None]).sum(axis=1) / num_atoms[:, None].astype(np.float32))[None]


def atom_tokens(tokens: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
    """(1, A, d) representations of the atoms, molecule after molecule."""
    return tokens[:, 1:][np.arange(tokens.shape[1] - 1) < num_atoms[:, None]][None]


class OnnxForward:
    """An exported model, ready to be given batches.

    Each batch holds molecules that are padded to the same size, which depends on their own size alone, and is computed by one thread.

    Args:
        file: the model. tokens: most tokens in a batch.
        output: name of what is asked for. read_off: what is read off it.
        threads: batches at a time; by default as many as there are cores, or as OMP_NUM_THREADS says.
    """

    def __init__(
        self,
        file: ExportedFile,
        tokens: int,
        output: str = "properties",
        read_off: ReadOff = properties,
        threads: int | None = None,
    ):
        self._session, self.inputs, self.tokens = file.session, file.exported.inputs, tokens
        self._output, self._read_off = output, read_off
        self._names = [given.name for given in file.session.get_inputs()]
        self._threads = threads or default_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = 0

    def __enter__(self) -> "OnnxForward":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        self.close()

    def close(self) -> None:
        """Give up what was not begun, and end the threads; others begin with the next batch, if there is one."""
        if self._pool is not None and self._pool_of == os.getpid():
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def batches(self, num_atoms: np.ndarray) -> list[np.ndarray]:
        """Places of molecules that are padded to the same size; each place once."""
        widths = padded_atoms(num_atoms.astype(np.int64))
        result = []
        for width in np.unique(widths).tolist():
            places = np.flatnonzero(widths == width)
            most = max(1, min(self.tokens // (width + 1), PAIRS_PER_TOKEN * self.tokens // (width + 1) ** 2))
            result += [places[start : start + most] for start in range(0, len(places), most)]
        return result

    def submit_records(self, records: Sequence[bytes]) -> "Future[np.ndarray]":
        """Begin to compute a batch; (members, molecules or atoms, k) float64 when it is done."""
        if self._pool is None or self._pool_of != os.getpid():  # a forked process has none of the threads
            self._pool, self._pool_of = ThreadPoolExecutor(self._threads), os.getpid()
        return self._pool.submit(self._run, records)

    def _run(self, records: Sequence[bytes]) -> np.ndarray:
        packed = joined(records)
        feeds = padded(packed, self._names)
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4  # what fails is raised as well
        if feeds["atom_features"].shape[1] ** 2 > PAIRS_PER_TOKEN * self.tokens:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")  # a lone large molecule's memory is given back
        try:
            (values,) = self._session.run([self._output], feeds, options)
        except Exception as error:  # onnxruntime's are of many classes, which have nothing but Exception in common
            if any(words in str(error).lower() for words in SHORT_OF_MEMORY):
                raise MemoryError(str(error)) from error
            raise
        return self._read_off(values, packed["num_atoms"]).astype(np.float64)


def default_threads() -> int:
    """Cores that this process may use, or fewer where OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, max(1, int(asked))) if asked.isdigit() else cores
