"""How much memory and communication training takes, before it starts. Derived in docs/scaling.md, where it is compared with measurements.

Model states follow ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054, sections 3 and 7): with Adam a parameter has a weight, a gradient, a
float32 master weight and two moments; stages 1, 2, 3 divide moments and masters, gradients, weights by the number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from torch import nn

from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.embedding import ATOM_FEATURES
from moleblend_fs.model.heads import NoiseHead, PairHead, build_head
from moleblend_fs.model.shape_only import Unallocated
from moleblend_fs.model.target_classes import SPD_CLASSES
from moleblend_fs.ops.embedding_rows import TABLE_ROWS
from moleblend_fs.ops.layout import BUCKET_STEP
from moleblend_fs.ops.pair_projection.reference import VALUES_AT_ONCE

GIB = 2**30
BUCKET = 500_000_000
"""Elements of the buffer in which DeepSpeed 0.19 collects gradients (reduce_bucket_size); it is allocated whole."""
LIVE = 1_000_000_000
"""Elements within which ZeRO 3 looks for a parameter's next use before it frees it (stage3_max_reuse_distance)."""
PERSISTENT = 100_000
"""Smallest parameter that ZeRO 3 gathers when it is needed; smaller ones stay (stage3_param_persistence_threshold)."""
WARN_SHARE = 0.9
ENDS = 12.7
"""Values of the embedding width per token besides what blocks keep: embeddings, final representations, heads, one block's backward pass."""
PAIR, NOISE_PAIR, NOISE_DROPPED = 12, 27, 5
"""Bytes per head and padded pair of tokens: bias and its gradients; with the noise head; its dropout."""
KEPT_ENDS, KEPT_PAIR, KERNEL_KEPT_PAIR = 4.0, 8, 8
"""Of `ENDS` and `PAIR`, and with kernels, what each pass but the one that runs backward keeps: embeddings and outputs, the bias."""
INDEX = 135
"""Bytes per pair: the batch, what is shown, targets, places in the layout."""
LOSS_VALUES, LOSS_VALUES_HALF, LOSS_SIDES = 2.5, 5.5, 2.4
"""float32 numbers per value of the edge head's loss, and as many times pair_dim per atom: the products of one side."""
KERNEL_PAIR, KERNEL_INDEX = 16, 60
"""Bytes per pair and head, and per pair, on a GPU with kernels: counted in the code, not measured."""


class Batch(NamedTuple):
    """What a process has in a micro-batch: molecules, atoms, ordered pairs of atoms (sum of n^2)."""

    molecules: int
    atoms: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a model is trained.

    Attributes:
        processes: data-parallel ones.
        stage: of ZeRO; 0 for copies of the whole model (DDP).
        offload: ZeRO keeps master weights and moments in host memory.
        half: weights, gradients and activations in bfloat16 or float16.
        update_freq: micro-batches of an update.
        kernels: attention runs as a GPU kernel.
        masters: half precision keeps float32 weights and gradients too (fairseq's --memory-efficient-* do not).
        reuse: of ZeRO 3, see `LIVE`.
        bucket: elements of DeepSpeed's gradient buffer, see `BUCKET`.
        passes: of the encoder in a micro-batch, all of which are kept for the backward pass.
    """

    processes: int = 1
    stage: int = 0
    offload: bool = False
    half: bool = False
    update_freq: int = 1
    kernels: bool = False
    masters: bool = True
    reuse: int = LIVE
    bucket: int = BUCKET
    passes: float = 1.0

    @property
    def width(self) -> int:
        """Bytes of a weight, a gradient or an activation."""
        return 2 if self.half else 4


ON_DEVICE = ("weights", "gradients", "optimizer", "buffers", "activations")
"""Parts of `Memory` that lie where the model is."""


class Memory(NamedTuple):
    """Bytes of one process.

    Attributes:
        weights, gradients: of the model. optimizer: masters, their gradients, moments (0 if offloaded).
        buffers: of communication, and what ZeRO 3 gathers.
        activations: of a micro-batch, at the end of the forward pass.
        host: what is kept in host memory instead.
        peak: most that is there at a time.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    host: int
    peak: int

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {getattr(self, name) / GIB:.2f}" for name in ON_DEVICE)
        return f"{self.peak / GIB:.2f} GiB ({parts}" + (f"; {self.host / GIB:.2f} in host memory)" if self.host else ")")


def parameter_sizes(config: ModelConfig) -> list[int]:
    """Elements of each parameter, without allocating them."""
    from moleblend_fs.model.moleblend import MoleBlend

    with Unallocated():
        return [prod(parameter.shape) for parameter in MoleBlend(config).parameters()]


def heads_of(config: ModelConfig) -> list[nn.Module]:
    """The heads of a model, without allocating them."""
    with Unallocated():
        return [build_head(name, config) for name in config.heads]


def estimate(sizes: Sequence[int], config: ModelConfig, batch: Batch | None, setup: Setup) -> Memory:
    """Memory of one process.

    Args:
        sizes: elements of each parameter.
        batch: the largest micro-batch; None leaves activations out.
    """
    total, n, width = sum(sizes), setup.processes, setup.width
    share = -(-total // n)
    if setup.stage == 0:
        weights, gradients = width * total, width * total
        optimizer = (16 if setup.half and setup.masters else 8) * total  # masters and their gradients, beside the moments
        buffers = width * total if n > 1 else 0
    else:
        optimizer = 16 * share
        gradients = width * (total if setup.stage == 1 else share)
        kept = sum(size for size in sizes if size < PERSISTENT)
        weights = width * (kept + -(-(total - kept) // n)) if setup.stage == 3 else width * total
        gathered = min(total - kept, setup.reuse // 2) if setup.stage == 3 and n > 1 else 0
        buffers = width * (gathered + setup.bucket)
    if config.predicted_3d:  # a second model, which learns nothing and is not divided
        weights += 4 * total
    host = optimizer if setup.offload and setup.stage else 0
    optimizer -= host
    active = 0 if batch is None else activation_bytes(config, batch, setup)
    # The tables' gradients are there twice when they are added to what there is.
    last = gradients + width * (ATOM_FEATURES + 2) * TABLE_ROWS * config.embed_dim
    # A first micro-batch frees activations while it makes gradients; later ones find gradients there.
    working = max(active, last) if setup.update_freq == 1 else gradients + active
    return Memory(weights, gradients, optimizer, buffers, active, host, weights + optimizer + buffers + working)


def activation_bytes(config: ModelConfig, batch: Batch, setup: Setup) -> int:
    """Most bytes of tensors that forward and backward pass hold besides weights and gradients.

    What blocks keep follows from the code; the factors of what is there for a moment besides were fitted to measurements.
    """
    d, f, heads, width = config.embed_dim, config.ffn_dim, config.attention_heads, setup.width
    tokens = batch.atoms + batch.molecules
    extra = (BUCKET_STEP - 1) / 2  # padding of a molecule, on average
    padded = batch.pairs + 2 * batch.atoms + batch.molecules + 2 * extra * tokens + extra**2 * batch.molecules
    drop = config.attention_dropout > 0
    # residual sums and q, k, v; what the feed-forward part reads; statistics; which activations and weights were dropped
    block: float = tokens * (width * (5 * d + f) + 16 + 4 * heads)
    block += tokens * (f * (config.activation_dropout > 0) + 2 * d * (config.dropout > 0))
    block += width * tokens * d if setup.kernels else padded * heads * drop
    recomputed = config.checkpoint_layers
    blocks = (config.layers - recomputed) * block + recomputed * tokens * d * width
    blocks *= setup.passes
    more = max(0.0, setup.passes - 1)
    again = block if recomputed == config.layers else 0  # the last block, computed again for its backward pass
    if setup.kernels:
        kept = more * (KEPT_ENDS * width * tokens * d + KERNEL_KEPT_PAIR * batch.pairs * heads)
        return int(blocks + kept + again + ENDS * width * tokens * d + batch.pairs * (KERNEL_PAIR * heads + KERNEL_INDEX))
    # Two moments: one in the backward pass; one in the loss of the edge head, which takes a few molecules at a time.
    carried = heads_of(config)
    in_bias = NOISE_PAIR + NOISE_DROPPED * drop if any(isinstance(head, NoiseHead) for head in carried) else PAIR
    backward = again + ENDS * width * tokens * d + in_bias * padded * heads
    loss = 0.0
    classes = max((head.out.out_features for head in carried if type(head) is PairHead), default=0)
    if classes > SPD_CLASSES:
        some = min(VALUES_AT_ONCE, batch.pairs * classes)
        sides = LOSS_SIDES * config.pair_dim * (batch.molecules / batch.pairs) ** 0.5
        values = LOSS_VALUES_HALF if setup.half else LOSS_VALUES
        loss = 3 * width * tokens * d + PAIR * padded * heads + 4 * some * (values + sides)
    kept = more * (KEPT_ENDS * width * tokens * d + KEPT_PAIR * padded * heads)
    return int(blocks + kept + INDEX * batch.pairs + max(backward, loss))


def traffic(sizes: Sequence[int], setup: Setup) -> dict[str, int]:
    """Bytes that a process hands to each kind of collective in an update: whole tensors, before anything is divided.

    ZeRO's paper (section 7) has stages 1 and 2 reduce-scatter gradients; DeepSpeed 0.19 all-reduces them and keeps its part.
    """
    total, width, times = sum(sizes), setup.width, setup.update_freq
    if setup.processes == 1:
        return {}
    if setup.stage == 0:
        return {"all_reduce": width * total}
    if setup.stage < 3:
        return {"all_reduce": width * total * (times if setup.stage == 2 else 1), "all_gather": width * total}
    kept = sum(size for size in sizes if size < PERSISTENT)
    # What lies x elements before the end of the forward pass is needed again 2 x later, and stays gathered if that is near.
    gathered = total - kept + max(0, total - kept - setup.reuse // 2)
    return {"reduce_scatter": width * total * times, "all_gather": width * (gathered * times + kept)}


def sent(traffic: dict[str, int], processes: int) -> int:
    """Bytes that each of N processes sends in ring algorithms: an all-reduce passes a tensor twice but for 1/N, the others once."""
    once = (processes - 1) / processes
    return int(sum(size * once * (2 if kind == "all_reduce" else 1) for kind, size in traffic.items()))


def judge(memory: Memory, available: int, setup: Setup, where: str) -> str | None:
    """None if it fits, a warning above 90 % of what is there.

    Args:
        available: bytes for one process.
        where: what they are bytes of, e.g. "the GPU".

    Raises:
        UserError: it cannot fit; names the figures and what to do.
    """
    said = f"training needs about {memory} on each process, {where} has {available / GIB:.2f} GiB for it"
    if memory.peak > available:
        remedies = ["smaller batches (--batch-size, --max-tokens, --max-pairs)", "--checkpoint-layers"] if memory.activations else []
        if setup.stage == 0:
            remedies.append("--optimizer deepspeed with --zero-stage 1, 2 or 3")
        elif setup.stage < 3:
            remedies.append(f"a higher --zero-stage than {setup.stage}")
        if setup.stage and not setup.offload:
            remedies.append("--zero-offload cpu")
        remedies.append("a smaller --arch")
        raise UserError(f"{said}; choose {', or '.join(remedies)}. MOLEBLEND_MEMORY_CHECK=0 starts all the same")
    return said if memory.peak > WARN_SHARE * available else None
