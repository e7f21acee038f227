"""Replaces `fairseq.optim.adam.get_fused_adam_class` and `FairseqAdam.__init__` (fairseq 0.12): torch's fused AdamW, on GPUs and CPUs.

fairseq looks for apex's on GPUs, and on CPUs takes a dozen operations for each parameter. `--use-old-adam` is fairseq's own everywhere.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fairseq.optim import adam
from torch import Tensor
from torch.optim.adamw import adamw

from moleblend_fs.checkpoint.adam_state import MOMENTS

PINS = {
    "fairseq.optim.adam.Adam.step": "dc81889f22b1",
    "fairseq.optim.adam.FairseqAdam.__init__": "ba43d38b45f4",
    "fairseq.optim.fused_adam.get_fused_adam_class": "4b477260ac48",
}
VECTOR = 16
"""Numbers that the widest vectors of a CPU hold. torch rounds what is left over at an array's end in another way."""


class FusedAdam(torch.optim.AdamW):
    """AdamW in one pass over weights, gradients and both moments.

    The same update as fairseq's Adam, but that epsilon is added after the bias correction (Kingma and Ba 2015, Algorithm 1)
    and not before it (their section 2): a factor sqrt(1 - beta2^t) on an epsilon of 1e-8.

    Args:
        use_fp16_stats: fairseq's option for moments in half precision, which are not offered.
    """

    supports_memory_efficient_fp16 = False
    supports_flat_params = True

    def __init__(self, params: Any, *, use_fp16_stats: bool = False, **options: Any):
        if use_fp16_stats:
            raise NotImplementedError("--fp16-adam-stats needs apex")
        super().__init__(params, fused=True, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of any Adam: fairseq's counts steps in integers."""
        state = {index: {**entry, "step": torch.tensor(float(entry["step"]))} for index, entry in state_dict["state"].items()}
        groups = [
            {**ours, **{key: value for key, value in theirs.items() if key in ours and key != "fused"}}
            for ours, theirs in zip(self.param_groups, state_dict["param_groups"], strict=True)
        ]
        super().load_state_dict({"state": state, "param_groups": groups})

    def state_dict(self) -> dict[str, Any]:
        """The state as fairseq's Adam saves it."""
        content = super().state_dict()
        state = {index: {**entry, "step": int(_number(entry["step"]))} for index, entry in content["state"].items()}
        return {"state": state, "param_groups": content["param_groups"]}


class _Parameter(NamedTuple):
    """A parameter, its gradient and its moments, or the same part of each."""

    weight: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor


class OnePassAdam(adam.Adam):
    """fairseq's Adam, by torch's fused AdamW where weights are float32 on the CPU: one pass over weights, gradients and both moments.

    The same formula and the same state; sums and products are rounded in another order. A number's bits do not depend on its place in
    an array, so that ZeRO, which lays all parameters end to end, computes the same.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        if not all(_is_plain(p) for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                by_step: dict[int, list[_Parameter]] = {}
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        step, tensors = self._advanced(parameter)
                        by_step.setdefault(step, []).append(tensors)
                for step, parameters in by_step.items():
                    with _whole_vectors(parameters) as parts:
                        _update(parts, step, group)
        return loss

    def _advanced(self, parameter: Tensor) -> tuple[int, _Parameter]:
        """The number of this update, and what it changes."""
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        gradient = parameter.grad.float().contiguous()  # type: ignore[union-attr]
        first, second = (state[key].to(parameter).contiguous() for key in MOMENTS)
        state.update(exp_avg=first, exp_avg_sq=second)
        return state["step"], _Parameter(parameter, gradient, first, second)


def _is_plain(parameter: Tensor) -> bool:
    return parameter.dtype == torch.float32 and parameter.device.type == "cpu" and parameter.is_contiguous()


@contextmanager
def _whole_vectors(parameters: list[_Parameter]) -> Iterator[list[_Parameter]]:
    """The same numbers in arrays of a multiple of `VECTOR`: the ends of others are copied together, and back when they are updated."""
    whole, ends = [], []
    for parameter in parameters:
        size = parameter.weight.numel()
        if end := size % VECTOR:
            flat = _Parameter(*(tensor.view(-1) for tensor in parameter))
            ends.append(_Parameter(*(tensor[size - end :] for tensor in flat)))
            parameter = _Parameter(*(tensor[: size - end] for tensor in flat))
        if size >= VECTOR:
            whole.append(parameter)
    if not ends:
        yield whole
        return
    joined = [torch.cat(each) for each in zip(*ends, strict=True)]
    joined = [F.pad(each, (0, -len(each) % VECTOR)) for each in joined]
    yield [*whole, _Parameter(*joined)]
    sizes = [len(end.weight) for end in ends]
    for originals, updated in zip(zip(*ends, strict=True), joined, strict=True):
        for original, part in zip(originals, updated.split([*sizes, len(updated) - sum(sizes)]), strict=False):
            original.copy_(part)


def _update(parameters: list[_Parameter], step: int, group: dict[str, Any]) -> None:
    """One update of parameters that have had as many.

    fairseq multiplies the learning rate by sqrt(1 - beta2^t) / (1 - beta1^t) and leaves the moments as they are. torch corrects the
    moments, but not after infinitely many steps; weights decay by the learning rate itself.
    """
    beta1, beta2 = group["betas"]
    rate = group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
    weights, gradients, first, second = (list(each) for each in zip(*parameters, strict=True))
    adamw(
        *(weights, gradients, first, second, [], [torch.tensor(math.inf)] * len(weights)),
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=rate,
        weight_decay=group["weight_decay"] * group["lr"] / rate if rate else 0.0,
        eps=group["eps"],
        maximize=False,
    )


def _number(step: float | Tensor) -> float:
    return step.item() if isinstance(step, Tensor) else step


_fairseq_init = adam.FairseqAdam.__init__


@functools.wraps(_fairseq_init)
def _init(self: adam.FairseqAdam, cfg: Any, params: Any) -> None:
    """fairseq's, which asks whether the machine has a GPU, and not where the parameters are."""
    params = list(params)
    _fairseq_init(self, cfg, params)
    if not cfg.use_old_adam and all(p.device.type == "cpu" for p in self.params):
        self._optimizer = OnePassAdam(params, **self.optimizer_config)


def install() -> None:
    """Offer them wherever apex is not there."""
    found = adam.get_fused_adam_class()
    adam.get_fused_adam_class = lambda: found or FusedAdam
    adam.FairseqAdam.__init__ = _init
