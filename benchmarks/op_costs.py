"""Counting what torch and the kernels would start on a GPU: launches, floating-point operations, bytes, and a time from them."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BANDWIDTH = 0.9 * 4.8e12
"""Bytes/s: nine tenths of the H200's, from NVIDIA's data sheet (2024), as streaming kernels reach."""
RATES: dict[torch.dtype | str, float] = {
    torch.bfloat16: 0.65 * 989e12,
    torch.float16: 0.65 * 989e12,
    torch.float32: 0.65 * 67e12,
    "tf32": 0.65 * 495e12,
    "tf32x3": 0.65 * 495e12 / 3,
}
"""Operations/s of products: about two thirds of the same sheet's dense rates. "tf32x3" are three products of TF32 for each of float32."""
SCALAR_RATE = 0.65 * 67e12 / 2
"""Instructions/s beside products: a multiplication and addition count as two operations on the sheet."""
GAUSSIAN, GELU, GELU_SLOPE, CUBIC, SUM_WEIGHT = 8, 35, 45, 12, 16
"""Instructions, about: of a Gaussian, of GELU, with its derivative, of a cubic of a table, of a pair's weight at one of its points."""
NODES = 64
"""Points that a tile of pairs is summed at (`relation_bias.kernels_points`)."""
SHOWN = 0.6
"""Share of pairs that show a distance, with the default --blend-ratio."""
SECTOR = 32
"""Bytes that a GPU reads where one number of them is wanted."""
LAUNCH_ON_DEVICE = 2e-6
"""Seconds that the smallest kernel takes."""
# fmt: off
VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias",
    "as_strided", "split", "unbind", "split_with_sizes", "reshape", "view_as", "lift_fresh", "unfold", "_reshape_alias", "diagonal",
    "chunk", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
}
"""Operations that start nothing on the device."""
FILLS = {"zeros", "zero_", "fill_", "zeros_like", "full_like", "new_zeros", "full", "ones", "new_ones", "arange"}
"""Operations that only write."""
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
EMBEDDINGS = {
    "embedding", "embedding_dense_backward", "index_select", "index", "index_add", "index_add_", "index_put", "index_put_", "gather",
}
# fmt: on
MOST_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36}
"""Tensors of a launch that goes through so many lists of them, and `MOST_BLOCKS` of `BLOCK_SIZE` numbers (torch, MultiTensorApply.cuh)."""
MOST_BLOCKS, BLOCK_SIZE = 320, 65536
KERNELS = {
    "blend": "draws and targets",
    "attention_forward": "attention",
    "attention_backward": "attention",
    "relation_bias": "relation bias",
    "relation_bias_backward": "relation bias",
    "atom_forces_forward": "noise head",
    "atom_forces_backward": "noise head",
    "pair_cross_entropy": "pair losses",
    "pair_geometry": "pair losses",
    "residual_norm_forward": "layer norms",
    "residual_norm_backward": "layer norms",
    "gelu_dropout_forward": "elementwise",
    "gelu_dropout_backward": "elementwise",
}


Launched = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
"""Is told of each launch of a kernel: the function under `triton.jit`, its arguments, and those given by name, with the options."""


@dataclass(slots=True)
class Cost:
    """Of a stage of one phase.

    Attributes:
        launches: operations that start on the device. gflop: floating-point operations of products, 1e9. gbytes: read and written, 1e9.
        device_ms: predicted time.
    """

    launches: int = 0
    gflop: float = 0.0
    gbytes: float = 0.0
    device_ms: float = 0.0

    def add(self, launches: int, flop: float, size: float, rate: float, scalars: float = 0.0) -> None:
        seconds = max(size / BANDWIDTH, flop / rate, scalars / SCALAR_RATE, launches * LAUNCH_ON_DEVICE)
        self.launches += launches
        self.gflop += flop / 1e9
        self.gbytes += size / 1e9
        self.device_ms += 1e3 * seconds


class Count(TorchDispatchMode):
    """Counts what is dispatched while it is entered, by phase (`phase`, which the caller sets) and stage.

    Args:
        sizes: (B,) atoms of each molecule, for the kernels' operations.
        launched: is told of each launch of a kernel.
    """

    def __init__(self, sizes: np.ndarray, launched: Launched | None = None):
        super().__init__()
        self.sizes, self.phase, self.launched = sizes, "", launched
        self.costs: dict[tuple[str, str], Cost] = defaultdict(Cost)
        self._stage = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.namespace == "moleblend":
            self._kernel(name, args, kwargs, result)
        elif func.namespace == "aten" and name not in VIEWS:
            given, made = _tensors((args, kwargs)), _tensors(result)
            flop = 0.0
            if name in PRODUCTS:
                flop = float(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result))
            size = sum(map(_bytes, made if name in FILLS else [*given, *made]))
            launches = 1
            if name.startswith(("_foreach_", "_fused_")):
                launches, size = of_lists(name, args)
            rate = RATES.get(given[0].dtype, RATES[torch.float32]) if given else RATES[torch.float32]
            self.costs[self.phase, self._stage or stage_of(self.phase, name)].add(launches, flop, size, rate)
        return result

    def _kernel(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """A kernel's bytes and operations, its launches, and what its Python does besides on the device."""
        stage = self._stage = KERNELS[name]
        counted: list[int] = []
        with self, _launches_counted(counted, self.launched):
            OPDEFS[f"moleblend::{name}"]._init_fn(*args, **kwargs)
        self._stage = ""
        size = sum(map(_bytes, _distinct([*_tensors((args, kwargs)), *_tensors(result)])))
        halves = [x.dtype for x in _tensors(args) if x.dtype in (torch.bfloat16, torch.float16)]
        products = [x for x in args if isinstance(x, str)]  # what an op calls its products' precision, where that is not its inputs' type
        kind = [*products, *halves, torch.float32][0]
        scalars = 0.0
        if name.startswith("relation_bias"):
            kind = "tf32x3" if points_of(name, args) else kind
            scalars, gathered = relation_bias_besides(name, args, self.sizes)
            size += gathered
        self.costs[self.phase, stage].add(len(counted), kernel_operations(name, args, self.sizes), size, RATES[kind], scalars)


def of_lists(name: str, args: Sequence[Any]) -> tuple[int, float]:
    """Launches and bytes of an operation on lists of tensors, as torch's CUDA code cuts them up."""
    lists = [x for x in args if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]
    sizes = [sum(map(_bytes, tensors)) for tensors in lists]
    if name == "_fused_adamw_":  # weights, gradients, both moments, and the counts of steps, which are not gone through
        lists = lists[:4]
        weights, _, *moments = sizes
        total = sum(sizes) + weights + sum(moments[:2])
    elif name in ("_foreach_copy_", "_foreach_zero_", "_foreach_norm"):
        total = sum(sizes)
    else:
        total = sum(sizes) + sizes[0]
    launches = tensors = blocks = 0
    for tensor in lists[0]:
        tensors += 1
        left = -(-tensor.numel() // BLOCK_SIZE)
        while left:
            step = min(left, MOST_BLOCKS - blocks)
            left, blocks = left - step, blocks + step
            if blocks == MOST_BLOCKS or (not left and tensors == MOST_TENSORS[len(lists)]):
                launches, blocks, tensors = launches + 1, 0, 1 if left else 0
    return launches + (blocks > 0) + (name == "_foreach_norm"), total


def stage_of(phase: str, name: str) -> str:
    """What an operation of torch is counted as."""
    if phase in ("draws and targets", "optimizer"):
        return phase
    if name in PRODUCTS:
        return "products"
    if name.startswith("native_layer_norm"):
        return "layer norms"
    if name == "_to_copy":
        return "casts"
    return "embeddings and gathers" if name in EMBEDDINGS else "elementwise"


def kernel_operations(name: str, args: Sequence[Any], sizes: np.ndarray) -> float:
    """Floating-point operations of a kernel's products: twice the multiplications, of what it computes again as well."""
    if name == "blend":
        return 0.0
    pairs, token_pairs, atoms = float((sizes**2).sum()), float(((sizes + 1) ** 2).sum()), float(sizes.sum())
    if name.startswith("attention"):
        qkv = args[0] if name.endswith("forward") else args[2]
        return (4 if name.endswith("forward") else 10) * qkv.shape[2] * qkv.shape[3] * token_pairs
    if name.startswith("atom_forces"):
        q = args[0] if name.endswith("forward") else args[3]
        return (1 if name.endswith("forward") else 3) * q.shape[1] * 2 * (q.shape[2] + 3) * pairs
    if name.startswith("relation_bias"):
        weights = args[6] if name == "relation_bias" else args[8]
        heads, gaussians = weights[0].shape[1], len(weights[4])
        points = points_of(name, args)
        layers = (1 if name == "relation_bias" else 3) * 2 * (points or SHOWN * pairs) * gaussians * (gaussians + heads)
        return layers + (2 * 2 * SHOWN * pairs * NODES * heads if points and name != "relation_bias" else 0)
    if not name.startswith("pair"):
        return 0.0
    outputs, width, _ = args[2].shape
    return (3 if args[-1] else 1) * 2 * outputs * (atoms * width * width + pairs * width)


def points_of(name: str, args: Sequence[Any]) -> int:
    """Points of the relation bias' table; 0 where each pair is computed."""
    if name == "relation_bias":
        return int(args[11]) if len(args) > 11 else 0  # the dispatcher leaves out what is at its default
    table = args[15]
    return int(table[3].shape[1]) if table else 0


def relation_bias_besides(name: str, args: Sequence[Any], sizes: np.ndarray) -> tuple[float, float]:
    """Instructions beside the products, of Gaussians, GELU and a table; and bytes of d_bias that are read in the order of the distances."""
    weights = args[6] if name == "relation_bias" else args[8]
    heads, gaussians, points = weights[0].shape[1], len(weights[4]), points_of(name, args)
    shown = SHOWN * float((sizes**2).sum())
    evaluated = (points or shown) * gaussians
    if name == "relation_bias":  # the Gaussians twice, for each half of the hidden units
        return evaluated * (2 * GAUSSIAN + GELU) + (shown * heads * CUBIC if points else 0), 0.0
    scalars = evaluated * (9 * GAUSSIAN + 2 * GELU_SLOPE)
    return (scalars + shown * NODES * SUM_WEIGHT, shown * heads * SECTOR) if points else (scalars, 0.0)


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _distinct(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(x): x for x in tensors}.values())


def _bytes(x: Tensor) -> int:
    """Of the places that a tensor has, expanded ones once."""
    places = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        places *= size if stride else 1
    return places * x.element_size()


@contextlib.contextmanager
def _launches_counted(counted: list[int], launched: Launched | None) -> Iterator[None]:
    """Kernels are counted in place of being run."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        counted.append(1)
        if launched is not None:
            launched(self, args, kwargs)

    with mock.patch.object(InterpretedFunction, "run", run), mock.patch.object(JITFunction, "run", run):
        yield
