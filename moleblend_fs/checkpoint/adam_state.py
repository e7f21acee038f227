"""Adam's state by parameter name: what every checkpoint holds, whichever optimizer, precision and number of processes wrote it.

A checkpoint's "model" holds the float32 weights, its "last_optimizer_state" is fairseq's for float32 Adam (a table by the
parameters' order) with the parameters' names beside, or names the files that ZeRO's processes wrote (`zero_moments`). Everything else
(bf16 copies, flat buffers, ZeRO's partitions) follows from these, so that any run can go on from any other's checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from moleblend_fs.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")
GROUP_OPTIONS = {"betas": "--adam-betas", "eps": "--adam-eps", "weight_decay": "--weight-decay"}
"""Adam's options as torch names them, and as the command line does."""


@dataclass(kw_only=True)
class AdamState:
    """Adam's state.

    Attributes:
        step: updates done, by parameter.
        moments: by key of `MOMENTS`, then by parameter, float32 in the parameter's shape. A parameter that never had a
            gradient is in none of the tables.
        options: learning rate, betas and so on.
        loss_scale: of fp16, or None.
    """

    step: dict[str, int]
    moments: dict[str, dict[str, Tensor]]
    options: dict[str, Any] = field(default_factory=dict)
    loss_scale: float | None = None

    def piece(self, key: str, name: str, start: int, length: int) -> Tensor:
        """(length,) of a flattened parameter's moments; zeros where it has none."""
        whole = self.moments[key].get(name)
        return torch.zeros(length) if whole is None else whole.reshape(-1).narrow(0, start, length)


def without_moments(lr: float) -> AdamState:
    """The state before the first update.

    Args:
        lr: learning rate.
    """
    return AdamState(step={}, moments={key: {} for key in MOMENTS}, options={"lr": lr, "amsgrad": False})


def take_options(stored: dict[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Put a run's options of Adam in the place of a checkpoint's.

    Args:
        stored: the checkpoint's, changed. given: the run's, by the names of `GROUP_OPTIONS`.

    Returns:
        What differed, a line each.
    """
    lines = []
    for name in GROUP_OPTIONS:
        before, now = (tuple(value) if isinstance(value, list) else value for value in (stored.get(name), given[name]))
        if before not in (None, now):
            lines.append(f"{GROUP_OPTIONS[name]} was {before}, and is {now} from now on")
        stored[name] = now
    return lines


def to_table(state: AdamState, names: Sequence[str]) -> dict[str, Any]:
    """The state as float32 Adam of fairseq saves it."""
    table = {
        index: {"step": state.step[name], **{key: state.moments[key][name] for key in MOMENTS}}
        for index, name in enumerate(names)
        if name in state.step
    }
    # Fused kernels count steps by group, not by parameter.
    group = {**state.options, "step": max(state.step.values(), default=0), "params": list(range(len(names)))}
    content = {"state": table, "param_groups": [group], "names": list(names)}
    return content if state.loss_scale is None else {**content, "loss_scale": state.loss_scale}


def from_table(content: Mapping[str, Any], shapes: Mapping[str, torch.Size], where: str) -> AdamState:
    """The inverse of `to_table`; reads what fairseq's own Adam writes too, in any precision.

    Args:
        shapes: of the model's parameters, in their order.

    Raises:
        UserError: the state is of other parameters.
    """
    names = content.get("names") or list(shapes)
    table = content["state"]
    if set(table) == {0} and len(shapes) > 1 and table[0]["exp_avg"].numel() == sum(shape.numel() for shape in shapes.values()):
        table = split_flat(table[0], list(shapes.values()))
    if sorted(names) != sorted(shapes) or (table and max(table) >= len(names)):
        raise UserError(f"{where}: the optimizer's state is of other parameters than this model's; start with --reset-optimizer")
    options = {key: value for key, value in content["param_groups"][0].items() if key not in ("params", "step")}
    return AdamState(
        step={names[index]: int(entry.get("step", content["param_groups"][0].get("step", 0))) for index, entry in table.items()},
        moments={key: {names[index]: entry[key] for index, entry in table.items()} for key in MOMENTS},
        options=options,
        loss_scale=content.get("loss_scale"),
    )


def split_flat(entry: Mapping[str, Any], shapes: Sequence[torch.Size]) -> dict[int, dict[str, Any]]:
    """The state of one flat buffer (fp16 in fairseq) as one of its parameters."""
    pieces = {key: entry[key].split([shape.numel() for shape in shapes]) for key in MOMENTS}
    return {
        index: {"step": entry["step"], **{key: pieces[key][index].view(shape) for key in MOMENTS}} for index, shape in enumerate(shapes)
    }


def join_flat(table: Mapping[int, Mapping[str, Any]], shapes: Sequence[torch.Size]) -> dict[int, dict[str, Any]]:
    """The inverse of `split_flat`; parameters without a state get zeros."""
    if not table:
        return {}

    def flat(key: str) -> Tensor:
        return torch.cat([table[i][key].flatten() if i in table else torch.zeros(shape.numel()) for i, shape in enumerate(shapes)])

    return {0: {"step": max(int(entry["step"]) for entry in table.values()), **{key: flat(key) for key in MOMENTS}}}


def shapes_of(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, torch.Size]:
    """Shapes of trained parameters, in the model's order; ZeRO 3 keeps them aside while a parameter is spread out."""
    return {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in parameters if parameter.requires_grad}
