"""ZeRO's partitions of weights and Adam moments: by the parameter's name, gathered, and spread out again.

DeepSpeed 0.19 keeps float32 weights and moments in flat buffers of which each rank has a part. Its own checkpoints of these
can be read only by the same stage; these functions go by the parameter's name instead.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moleblend_fs.checkpoint.adam_state import MOMENTS, AdamState, shapes_of
from moleblend_fs.checkpoint.zero_moments import Piece, StoredMoments
from moleblend_fs.zero.patches.fragments import Fragment, fragment


def gather_weights(model: nn.Module, zero: Any) -> dict[str, Tensor] | None:
    """Float32 weights of all parameters, on the CPU of rank 0; None on the others, which all take part."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    device = device_of_exchange()
    weights = {
        name: assemble(fragment(parameter, zero), shape, device)
        for (name, parameter), shape in zip(named, shapes_of(named).values(), strict=True)
    }
    return {name: weight for name, weight in weights.items() if weight is not None} if dist.get_rank() == 0 else None


def assemble(piece: Fragment | None, shape: torch.Size, device: torch.device) -> Tensor | None:
    """One parameter's weights from all ranks' pieces, on rank 0; each place comes from one rank and is 0 on the others."""
    buffer = torch.zeros(shape.numel(), device=device)
    if piece is not None:
        buffer.narrow(0, piece.start, piece.length).copy_(piece.of(piece.flat.detach()))
    dist.reduce(buffer, dst=0)
    return buffer.view(shape).cpu() if dist.get_rank() == 0 else None


def updates_done(zero: Any) -> int:
    """Adam's steps; all ranks take part, since one without a piece has no state."""
    step = torch.tensor([max((int(entry["step"]) for entry in zero.optimizer.state.values() if "step" in entry), default=0)])
    step = step.to(device_of_exchange())
    dist.all_reduce(step, dist.ReduceOp.MAX)
    return int(step)


def moments(model: nn.Module, zero: Any) -> dict[str, Piece]:
    """This rank's pieces of Adam's moments on the CPU, by parameter; those of one flat buffer share its memory."""
    on_cpu: dict[tuple[str, int], Tensor] = {}
    result = {}
    for name, piece in pieces(model, zero):
        entry = zero.optimizer.state[piece.flat]
        if entry.keys() >= set(MOMENTS):
            for key in MOMENTS:
                on_cpu.setdefault((key, id(piece.flat)), entry[key].detach().cpu())
            result[name] = Piece(piece.start, {key: piece.of(on_cpu[key, id(piece.flat)]) for key in MOMENTS})
    return result


def device_of_exchange() -> torch.device:
    """Where collectives run: the model's device, also where the optimizer's state is kept in host memory."""
    from deepspeed.accelerator import get_accelerator

    return torch.device(get_accelerator().current_device_name())


def set_state(model: nn.Module, zero: Any, weights: dict[str, Tensor], state: AdamState | StoredMoments) -> None:
    """Set this rank's pieces. The model's own weights (bf16 or not) are not touched.

    Args:
        weights: float32 weights of all parameters, by name.
        state: Adam's.
    """
    step = state.step if isinstance(state, StoredMoments) else max(state.step.values(), default=0)
    for name, piece in pieces(model, zero):
        piece.of(piece.flat.data).copy_(weights[name].reshape(-1).narrow(0, piece.start, piece.length))
        if not step:
            continue
        entry = zero.optimizer.state[piece.flat]
        for key in MOMENTS:
            if key not in entry:
                entry[key] = torch.zeros_like(piece.flat)
            piece.of(entry[key]).copy_(state.piece(key, name, piece.start, piece.length))
        entry["step"] = step


def pieces(model: nn.Module, zero: Any) -> Iterator[tuple[str, Fragment]]:
    """Names and pieces of the parameters that this rank has a piece of."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (piece := fragment(parameter, zero)) is not None:
            yield name, piece
