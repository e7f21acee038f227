"""`--optimizer deepspeed`: fairseq's optimizer protocol on a DeepSpeed engine, with the Adam of other runs inside ZeRO."""

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, List, Optional  # noqa: UP035

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor, nn

from fairseq_plugins.patches.fused_adam import OnePassAdam
from moleblend_fs.checkpoint.adam_state import GROUP_OPTIONS, AdamState
from moleblend_fs.checkpoint.zero_moments import StoredMoments
from moleblend_fs.zero.patches.scaled_step import step_with_gradients_times


@dataclass
class DeepSpeedConfig(FairseqDataclass):
    zero_stage: int = field(default=1, metadata={"help": "ZeRO spreads over processes: 1 optimizer state, 2 and gradients, 3 and weights"})
    zero_offload: ChoiceEnum(["none", "cpu"]) = field(  # type: ignore[valid-type]
        default="none", metadata={"help": "where optimizer state and float32 weights are kept: with the model, or in host memory"}
    )
    deepspeed_config: Optional[str] = field(  # noqa: UP045  fairseq cannot read "str | None"
        default=None, metadata={"help": "DeepSpeed configuration (JSON) whose keys are added to those that the options give"}
    )
    adam_betas: str = field(default="(0.9, 0.999)", metadata={"help": "betas for Adam"})
    adam_eps: float = field(default=1e-8, metadata={"help": "epsilon for Adam"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled weight decay"})
    lr: List[float] = II("optimization.lr")  # noqa: UP006, RUF009


@register_optimizer("deepspeed", dataclass=DeepSpeedConfig)
class DeepSpeedOptimizer(FairseqOptimizer):
    """fairseq calls, in this order: backward for each micro-batch, multiply_grads, clip_grad_norm, step.

    ZeRO does the last three in one call: `multiply_grads(c)` only keeps c for it.
    """

    def __init__(self, cfg: DeepSpeedConfig, params: Iterable[nn.Parameter]):
        super().__init__(cfg)
        betas = tuple(float(beta) for beta in ast.literal_eval(cfg.adam_betas))
        self._optimizer = OnePassAdam(params, lr=cfg.lr[0], betas=betas, eps=cfg.adam_eps, weight_decay=cfg.weight_decay)
        self.engine: Any = None
        self.restore: Callable[[AdamState | StoredMoments], None] | None = None
        self.factor = 1.0

    @property
    def zero(self) -> Any:
        """The engine's ZeRO optimizer."""
        return self.engine.optimizer

    @property
    def scaler(self) -> Any:
        """What fairseq logs fp16's loss scale from."""
        return self.zero.loss_scaler

    def zero_grad(self) -> None:
        """The engine clears gradients after each step."""

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def all_reduce_grads(self, module: Any) -> None:
        """The engine has averaged them over the processes."""

    def multiply_grads(self, c: Any) -> None:
        self.factor = float(c)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """Normalise, clip and step (`step_with_gradients_times`); the norm before clipping."""
        return torch.as_tensor(step_with_gradients_times(self.engine, self.factor))

    def step(self, closure: Any = None, scale: float = 1.0, groups: Any = None) -> None:
        """Done in `clip_grad_norm`."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the trainer has each rank write its state."""
        return {}

    def load_state_dict(self, state_dict: Any, optimizer_overrides: dict[str, Any] | None = None) -> None:
        """Take a checkpoint's state (the trainer spreads it), with some of its options replaced."""
        assert self.restore is not None
        self.restore(state_dict)
        for group in self.param_groups:
            group.update(optimizer_overrides or {})

    def take_options(self, state: AdamState | StoredMoments) -> None:
        """Betas and so on from a checkpoint, as fairseq's Adam does."""
        for group in self.param_groups:
            group.update({key: state.options[key] for key in GROUP_OPTIONS if key in state.options})
        if state.loss_scale is not None and self.engine.fp16_enabled():
            self.zero.loss_scale = state.loss_scale
