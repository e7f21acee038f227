"""DeepSpeed's engine: its configuration from fairseq's options and a user's file, and how it is built.

Written for deepspeed 0.19. DeepSpeed is imported only inside functions.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from moleblend_fs.errors import UserError
from moleblend_fs.planning.estimate import BUCKET
from moleblend_fs.zero.patches.compilation import skip_compilation
from moleblend_fs.zero.patches.reduction_order import reduce_in_one_order
from moleblend_fs.zero.patches.zero_clipping import clip_in_zero

STAGES = (1, 2, 3)
REFUSED_KEYS = {
    "optimizer": "the optimizer is Adam: --adam-betas, --adam-eps, --weight-decay, --lr",
    "scheduler": "choose --lr-scheduler",
    "train_batch_size": "batches hold as many molecules as fit: --batch-size, --max-tokens, --max-pairs, --update-freq",
    "train_micro_batch_size_per_gpu": "batches hold as many molecules as fit: --batch-size, --max-tokens, --max-pairs",
    "amp": "choose --bf16 or --fp16",
    "torch_autocast": "choose --bf16 or --fp16",
    "elasticity": "runs resume on any number of processes without it",
    "checkpoint": "checkpoints are fairseq's: --save-dir, --save-interval-updates",
    "data_efficiency": "batches come from fairseq's iterator",
    "curriculum_learning": "batches come from fairseq's iterator",
    "compression_training": "it changes the model, which checkpoints could not tell",
}
"""Keys of a DeepSpeed configuration that something else decides, and what."""
FLAGS = {
    ("zero_optimization", "stage"): "--zero-stage",
    ("zero_optimization", "offload_optimizer", "device"): "--zero-offload",
    ("gradient_accumulation_steps",): "--update-freq",
    ("gradient_clipping",): "--clip-norm",
    ("bf16", "enabled"): "--bf16",
    ("fp16", "enabled"): "--fp16",
    ("fp16", "initial_scale_power"): "--fp16-init-scale",
}
"""Keys that options decide too: they may only repeat what the option says."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What fairseq's options say about the engine.

    Attributes:
        stage: of ZeRO, 1 to 3.
        offload: keep optimizer state and master weights in host memory.
        update_freq: most micro-batches of an update on one process.
        clip_norm: gradients' largest norm; 0 for no clipping.
        bf16, fp16: precision of the model; float32 if neither.
        fp16_init_scale: first loss scale of fp16.
        user_file: a user's DeepSpeed configuration (JSON), or None.
    """

    stage: int
    offload: bool
    update_freq: int
    clip_norm: float
    bf16: bool
    fp16: bool
    fp16_init_scale: int = 128
    user_file: str | None = None


def require_deepspeed() -> None:
    """UserError where DeepSpeed is not installed."""
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise UserError("--optimizer deepspeed needs DeepSpeed, which is not installed: pip install 'moleblend-fs[distributed]'") from error


def engine_config(options: EngineOptions, parameters: int | None = None) -> dict[str, Any]:
    """The engine's configuration: what the options say, over what the user's file adds.

    Args:
        parameters: elements of the model, if they are known yet: DeepSpeed allocates a buffer for gradients that could hold more.

    Raises:
        UserError: names the key of the file that contradicts an option, or that the file may not have.
    """
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # batches have no fixed size; only DeepSpeed's own throughput figures use it
        "gradient_accumulation_steps": options.update_freq,
        "gradient_clipping": options.clip_norm,
        "zero_optimization": {"stage": options.stage},
        "bf16": {"enabled": options.bf16},
        "fp16": {"enabled": options.fp16},
        "zero_allow_untested_optimizer": True,  # fairseq's Adam, so that ZeRO and DDP compute the same
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if options.fp16:
        ours["fp16"]["initial_scale_power"] = max(0, options.fp16_init_scale.bit_length() - 1)
    if options.offload:
        ours["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    user: dict[str, Any] = {}
    if options.user_file is not None:
        user = read_user_file(options.user_file)
        refuse_contradictions(user, ours, options)
    if parameters is not None and look_up(user, ("zero_optimization", "reduce_bucket_size")) in (None, "auto"):
        ours["zero_optimization"]["reduce_bucket_size"] = min(BUCKET, parameters)
    return merge(user, ours)


def read_user_file(path: str) -> dict[str, Any]:
    """A user's JSON file; UserError if it cannot be read or holds no object."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--deepspeed-config {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"--deepspeed-config {path}: a JSON object is needed, found a {type(content).__name__}")
    return content


def refuse_contradictions(user: Mapping[str, Any], ours: Mapping[str, Any], options: EngineOptions) -> None:
    """UserError for the first key of the user's file that another option decides otherwise. "auto" agrees with everything."""
    where = f"--deepspeed-config {options.user_file}"
    for key, instead in REFUSED_KEYS.items():
        if user.get(key, "auto") != "auto":
            raise UserError(f"{where}: the key {key!r} cannot be set there; {instead}")
    for path, flag in FLAGS.items():
        theirs = look_up(user, path)
        if theirs is None or theirs == "auto":
            continue
        mine = look_up(ours, path)
        if mine is None:
            mine = "none" if path[-1] == "device" else 0
        if theirs != mine:
            raise UserError(f"{where}: {'.'.join(path)} is {theirs!r} there, but {flag} says {mine!r}; leave the key out")
    parameters = look_up(user, ("zero_optimization", "offload_param", "device"))
    if parameters not in (None, "none", "cpu"):
        raise UserError(f"{where}: zero_optimization.offload_param.device is {parameters!r}; only 'cpu' and 'none' can be resumed")
    accumulation = look_up(user, ("data_types", "grad_accum_dtype"))
    if options.bf16 and options.stage == 1 and accumulation == "fp32":
        raise UserError(
            f"{where}: data_types.grad_accum_dtype 'fp32' with --bf16 and --zero-stage 1 is another optimizer of DeepSpeed's, which "
            "cannot normalise by the molecules of an update; choose --zero-stage 2, or leave the key out"
        )


def look_up(config: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The value at a path of keys, or None."""
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both configurations; where both have a value that of `over`."""
    result = dict(under)
    for key, value in over.items():
        result[key] = merge(under[key], value) if isinstance(value, Mapping) and isinstance(under.get(key), Mapping) else value
    return result


def build_engine(model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], *, local_rank: int) -> Any:
    """DeepSpeed's engine around a model that is on its device and in its precision.

    Raises:
        UserError: DeepSpeed refuses the configuration, or was imported for another device than the model's.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    device = next(model.parameters()).device
    if get_accelerator().device_name() != device.type:
        raise UserError(
            f"DeepSpeed was started for {get_accelerator().device_name()}, training for {device.type}: set DS_ACCELERATOR={device.type}"
        )
    start_single_process_group(device)
    skip_compilation()
    os.environ.update(RANK=str(dist.get_rank()), WORLD_SIZE=str(dist.get_world_size()), LOCAL_RANK=str(local_rank))
    try:
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    except ValueError as error:  # pydantic's refusals are ValueErrors
        raise UserError(f"DeepSpeed refuses the configuration: {error}") from error
    reduce_in_one_order(engine.optimizer, model)
    clip_in_zero(engine.optimizer, device, fp16=engine.fp16_enabled())
    return engine


def start_single_process_group(device: torch.device) -> None:
    """DeepSpeed needs a process group even where there is one process."""
    if dist.is_initialized():
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=1, rank=0)


class EngineModel:
    """What fairseq's trainer takes for the model: called through the engine, in all else the model itself."""

    def __init__(self, engine: Any, model: nn.Module):
        self.engine = engine
        self.module = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.engine(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    def train(self, mode: bool = True) -> "EngineModel":
        self.engine.train(mode)
        return self

    def eval(self) -> "EngineModel":
        return self.train(False)
