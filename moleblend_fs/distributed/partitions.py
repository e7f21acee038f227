"""ZeRO's partitions of weights and Adam moments, gathered parameter by parameter and spread out again.

DeepSpeed 0.19 keeps float32 weights and moments in flat buffers of which each rank has a part. Its own checkpoints of these
can be read only by the same stage on as many ranks; these functions go by the parameter's name instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moleblend_fs.distributed.adam_state import MOMENTS, AdamState, shapes_of


@dataclass(frozen=True)
class Fragment:
    """The piece of a parameter that this rank has.

    Attributes:
        flat: the rank's flat float32 buffer, which is also what the optimizer keeps its state by.
        offset: of the piece in `flat`.
        start: of the piece in the flattened parameter.
        length: of the piece, without padding.
    """

    flat: Tensor
    offset: int
    start: int
    length: int

    def of(self, buffer: Tensor) -> Tensor:
        """The piece of a buffer as long as `flat`."""
        return buffer.narrow(0, self.offset, self.length)


def fragment(parameter: Any, zero: Any) -> Fragment | None:
    """This rank's piece of a parameter; None if it has none.

    Args:
        zero: the engine's ZeRO optimizer, of any stage.
    """
    if hasattr(parameter, "ds_id"):  # stage 3: each rank has the same share of each parameter, the last ones padded
        group, offset, share = zero.grad_position[zero.get_param_id(parameter)]
        start = share * dist.get_rank(parameter.ds_process_group)
        length = min(share, parameter.ds_numel - start)
        return Fragment(zero.fp32_partitioned_groups_flat[group], offset, start, length) if length > 0 else None
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Fragment(zero.single_partition_of_fp32_groups[mapping.param_group_index], there.start, here.start, here.numel)


def gather(model: nn.Module, zero: Any) -> tuple[dict[str, Tensor], AdamState] | None:
    """Float32 weights and Adam's state of all parameters, on the CPU of rank 0; None on the others, which all take part."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    shapes = shapes_of(named)
    state = zero.optimizer.state
    steps = {int(entry["step"]) for entry in state.values() if "step" in entry}
    step = torch.tensor([max(steps, default=0)], device=parameter_device(zero))
    dist.all_reduce(step, dist.ReduceOp.MAX)
    weights: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {key: {} for key in MOMENTS}
    for name, parameter in named:
        piece = fragment(parameter, zero)
        for key in (None, *MOMENTS) if int(step) else (None,):
            table = weights if key is None else moments[key]
            source = None if piece is None else piece.flat if key is None else state[piece.flat].get(key)
            whole = assemble(piece, source, shapes[name], step.device)
            if whole is not None:
                table[name] = whole
    if dist.get_rank() != 0:
        return None
    options = {key: value for key, value in zero.optimizer.param_groups[0].items() if key != "params"}
    return weights, AdamState(step=dict.fromkeys(moments[MOMENTS[0]], int(step)), moments=moments, options=options)


def assemble(piece: Fragment | None, source: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor | None:
    """One parameter's tensor from all ranks' pieces, on rank 0; each place comes from one rank and is 0 on the others."""
    buffer = torch.zeros(shape.numel(), device=device)
    if piece is not None and source is not None:
        buffer.narrow(0, piece.start, piece.length).copy_(piece.of(source.detach()))
    dist.reduce(buffer, dst=0)
    return buffer.view(shape).cpu() if dist.get_rank() == 0 else None


def parameter_device(zero: Any) -> torch.device:
    """Where collectives run: the model's device, also where the optimizer's state is kept in host memory."""
    from deepspeed.accelerator import get_accelerator

    return torch.device(get_accelerator().current_device_name())


def spread(model: nn.Module, zero: Any, weights: dict[str, Tensor] | None, state: AdamState | None) -> None:
    """Set this rank's pieces; all ranks have the whole tables. The model's own weights (bf16 or not) are not touched.

    Args:
        weights: float32 weights by name, or None to keep those that ZeRO copied from the model.
        state: Adam's, or None to keep it.
    """
    for name, piece in pieces(model, zero):
        if weights is not None:
            copy_piece(piece, piece.flat.data, weights[name])
        if state is None or not state.step:
            continue
        entry = zero.optimizer.state[piece.flat]
        for key in MOMENTS:
            if key not in entry:
                entry[key] = torch.zeros_like(piece.flat)
            if name in state.moments[key]:
                copy_piece(piece, entry[key], state.moments[key][name])
        entry["step"] = max(state.step.values())


def pieces(model: nn.Module, zero: Any) -> Iterator[tuple[str, Fragment]]:
    """Names and pieces of the parameters that this rank has a piece of."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (piece := fragment(parameter, zero)) is not None:
            yield name, piece


def copy_piece(piece: Fragment, buffer: Tensor, whole: Tensor) -> None:
    """Copy this rank's piece of a whole tensor into a buffer."""
    piece.of(buffer).copy_(whole.reshape(-1).narrow(0, piece.start, piece.length))
