"""Relies on `torch.distributed.distributed_c10d._get_default_store` (torch 2.13): the store by which ranks of the default group met.

Whatever started the ranks (torchrun, Slurm, spawned processes, `file://`) made it; torch has no public name for it.
"""

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

PINS = {
    "torch.distributed.distributed_c10d._get_default_store": "647ab104bfa9",
}


def own_connection(prefix: str) -> dist.Store:
    """A connection of one's own to that store, for keys under a prefix: a thread can wait on it while others use the first."""
    return dist.PrefixStore(prefix, _get_default_store().clone())  # type: ignore[attr-defined]
