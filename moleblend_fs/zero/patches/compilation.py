"""Replaces `deepspeed.comm.torch.build_shm_op` (DeepSpeed 0.19), which compiles an operation that training does not use."""

import importlib

PINS = {
    "deepspeed.comm.torch.build_shm_op": "5ee7daeb8dd5",
    "deepspeed.comm.torch.TorchBackend.__init__": "d70cc73458ee",
}


def skip_compilation() -> None:
    """Keep DeepSpeed from compiling its shared-memory operation for CPUs.

    Only inference uses it. Compiling it takes a minute at the first start, and a start that is killed meanwhile leaves a lock
    that all later ones wait for without end.
    """
    # Not as an attribute: deepspeed.comm.torch is torch itself.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
