"""How each kernel of the relation bias runs: the table of launches.

Shape legend: H heads, K Gaussians.
"""

import functools
from typing import Any, NamedTuple

import torch

from moleblend_fs.ops.kernel_common import padded
from moleblend_fs.ops.relation_bias import kernels_atoms as atoms
from moleblend_fs.ops.relation_bias import kernels_distance as distance
from moleblend_fs.ops.relation_bias import kernels_points as points
from moleblend_fs.ops.relation_bias import kernels_tables as tables

PROCESSORS_WITHOUT_GPU = 2
"""What stands for the number of multiprocessors under Triton's interpreter: few, so that programs loop."""


class Launch(NamedTuple):
    """How a kernel runs.

    Attributes:
        kernel: the function under `triton.jit`.
        constexprs: what it is compiled for.
        num_warps: warps per program.
        per_processor: programs per multiprocessor of kernels with a fixed number of programs, else 0.
    """

    kernel: Any
    constexprs: dict[str, Any]
    num_warps: int
    per_processor: int = 0

    @property
    def block(self) -> int:
        return int(self.constexprs["BLOCK"])

    def programs(self, device: torch.device) -> int:
        """The fixed number of programs: a function of the device alone, and so is the order of the sums."""
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else PROCESSORS_WITHOUT_GPU
        return self.per_processor * processors

    def run(self, grid: tuple[int, ...], *arguments: Any) -> None:
        self.kernel[grid](*arguments, **self.constexprs, num_warps=self.num_warps, num_stages=NUM_STAGES)


# The tables that set launch configurations. A fixed number of programs costs partial sums (K^2 floats each for `weights`), so there
# are just enough to fill every multiprocessor. Tiles of the linear layers' kernels are as large as 255 registers a thread allow
# without spilling on sm_80 and sm_90; "tf32x3" holds every operand twice. What the loops load lies in L1 and L2 (at most 80 kB of
# weights), and 8 to 16 warps a multiprocessor hide its latency: no software pipelining.
NUM_STAGES = 1
EXACT = "tf32x3"
"""Precision of the products from which a table is made and its slopes taken: differences of neighbouring values lose digits."""
LEAST_FOR_TF32 = 64
"""Gaussians (padded) from which the linear layers' products are in TF32. Of 32 Gaussians and 4 heads `distance_gradients` gave other
numbers on an H200, for reasons that were not found; exact products of so few take no time."""
LISTED_AT_ONCE = 64  # pairs of a block: `look_up` counts them and `list_distances` lists them
LAYERS = {
    # BLOCK pairs, HIDDEN units and CHUNK Gaussians of a product, num_warps, programs per multiprocessor
    ("tf32", "add_distance_bias"): (128, 64, 32, 8, 2),
    ("tf32", "distance_gradients"): (64, 32, 32, 8, 1),
    ("tf32", "weight_gradients"): (32, 64, 16, 8, 1),
    ("tf32x3", "add_distance_bias"): (64, 32, 32, 4, 2),
    ("tf32x3", "distance_gradients"): (32, 32, 32, 8, 1),
    ("tf32x3", "weight_gradients"): (32, 64, 16, 8, 1),
}


@functools.cache
def launches(precision: str, heads: int, gaussians: int, classes: int, wider: int = 1) -> dict[str, Launch]:
    """The configuration of every kernel, by its name; with tiles `wider` times the ones of a GPU."""
    k = {"K": gaussians, "K_PAD": padded(gaussians)}
    h = {"H": heads, "H_PAD": padded(heads)}
    pairs = 128 if precision == "tf32" else 64  # of float32, 128 spill
    chosen = {
        "look_up": Launch(tables.look_up, {**h, "CLASSES": classes, "BLOCK": LISTED_AT_ONCE}, 4),
        "list_distances": Launch(tables.list_distances, {"BLOCK": LISTED_AT_ONCE}, 2),
        "table_gradients": Launch(tables.table_gradients, {**h, "BLOCK": pairs if heads <= 32 else 16, "PRECISION": precision}, 4, 1),
        "sum_gaussians": Launch(atoms.sum_gaussians, {**k, "BLOCK": 4}, 4),
        "sum_gaussians_gradients": Launch(atoms.sum_gaussians_gradients, {**k, "BLOCK": 4}, 4, 12),
        "element_gradients": Launch(atoms.element_gradients, {"BLOCK": 16, "COLUMNS": 32}, 8, 2),
    }
    for name in ("add_distance_bias", "distance_gradients", "weight_gradients"):
        products = precision if k["K_PAD"] >= LEAST_FOR_TF32 else EXACT
        block, hidden, chunk, num_warps, per_processor = LAYERS[products, name]
        if name == "weight_gradients" and heads > 32:
            block, hidden = 16, 32  # a program holds gradients of hidden x (Gaussians + heads)
        sizes = {"BLOCK": block, "HIDDEN": min(hidden, max(16, k["K_PAD"] // 2)), "CHUNK": min(chunk, k["K_PAD"]), "PRECISION": products}
        chosen[name] = Launch(getattr(distance, name), {**k, **h, **sizes}, num_warps, per_processor)
    chosen |= {
        "place_points": Launch(points.place_points, {**k, "BLOCK": 256}, 4),
        "measure_error": Launch(points.measure_error, {**h, "BLOCK": 64}, 4),
        "choose": Launch(points.choose, {"BLOCK": 256}, 4),
        "add_from_table": Launch(points.add_from_table, {**h, "BLOCK": 64}, 4, 8),
        "find_blocks": Launch(points.find_blocks, {"BLOCK": 256}, 4),
        "point_gradients": Launch(points.point_gradients, {**h, "BLOCK": 32 if heads <= 32 else 16, "PRECISION": EXACT}, 4),
        "add_blocks": Launch(points.add_blocks, {**h, "BLOCK": 64}, 4),
    }
    for launch in chosen.values():
        launch.constexprs["BLOCK"] *= wider
    return chosen
