"""relation_bias by Triton kernels; the same function as `moleblend_fs.ops.relation_bias.relation_bias`.

Forward: `look_up` writes the SPD and edge part of every pair's bias; `list_distances` lists the pairs that show a distance, on the
device; `add_distance_bias` works through that list; `sum_gaussians` gives the atoms' sums. Backward recomputes the Gaussians and the
hidden layer: per pair, only its place in the list and its x are kept. All sums over pairs are made in an order that is fixed by the
batch and the device, without atomics.

Shape legend: A atoms, P ordered pairs, H heads, K Gaussians, M the pairs that show a distance.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.kernels.common import Variant, tf32_allowed
from moleblend_fs.ops.kernels.relation_bias_ops import NUM_STAGES, launches, relation_bias_backward, relation_bias_forward
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import DistanceWeights, RelationWeights, distance_bias, edge_bias, spd_bias

MAX_GAUSSIANS, MAX_HEADS, MAX_CLASSES = 256, 128, 64
"""Sizes that the kernels compile for; beyond the shipped ones, some of them spill registers and are slow."""
SHIPPED = ((4, 32), (8, 64), (32, 128), (64, 128))
"""Heads and Gaussians of the shipped presets."""
SHIPPED_CLASSES = 61
TYPES = {
    **dict.fromkeys(("shown_P", "spd_P", "path_P5", "wants_A", "element_A"), "*u8"),
    **dict.fromkeys(("cu_atoms", "cu_pairs", "atom_molecule"), "*i64"),
    **dict.fromkeys(("counts", "ends", "count", "pair_M"), "*i32"),
    **dict.fromkeys(("num_pairs", "num_atoms", "num_molecules", "search_steps"), "i32"),
}
"""Types of the kernels' arguments; the others are float32 tensors."""


def precision() -> str:
    """`input_precision` of float32 products: TF32 where torch's own may use it, else three TF32 products, which keep float32's accuracy.

    "ieee" would leave the matrix units unused: some ten times slower.
    """
    return "tf32" if tf32_allowed() else "tf32x3"


def relation_bias(
    shown_P: Tensor,
    spd_P: Tensor,
    path_P5: Tensor,
    atom_distance_A: Tensor,
    coordinates_A3: Tensor,
    element_A: Tensor,
    weights: Sequence[Tensor],
    layout: Layout,
) -> tuple[Tensor, Tensor]:
    """Attention bias of what each pair shows, and the sums of Gaussians of the atoms that want them.

    Args:
        shown_P, spd_P, path_P5: uint8.
        atom_distance_A: bool.
        coordinates_A3: Angstrom; no gradient goes to them.
        element_A: the atomic-number feature, below 256.
        weights: spd_table (512, H), hop_table (5, classes, H), mul and shift (3 * 512,), means and stds (K,), weight1 (K, K), bias1,
            weight2 (H, K), bias2; half precision is converted to float32.

    Returns:
        The bias (P, H), a view of (H, P), and the sums (A, K); float32.

    Raises:
        ValueError: for shapes or types that the kernels are not made for.
    """
    obstacle = unsupported(weights)
    if obstacle:
        raise ValueError(f"{obstacle}; --ops relation_bias=reference runs plain torch instead")
    result: tuple[Tensor, Tensor] = RelationBias.apply(
        precision(),
        shown_P.contiguous(),
        spd_P.contiguous(),
        path_P5.contiguous(),
        atom_distance_A.contiguous().view(torch.uint8),
        coordinates_A3.detach().float().contiguous(),
        element_A.to(torch.uint8).contiguous(),
        layout.atom_molecule,
        layout.cu_atoms,
        layout.cu_pairs,
        *(weight.float().contiguous() for weight in weights),
    )
    return result


def unsupported(weights: Sequence[Tensor]) -> str | None:
    """Why the kernels cannot take these weights; None if they can."""
    heads, gaussians, classes = weights[0].shape[1], weights[4].shape[0], weights[1].shape[1]
    sizes = (("attention heads", heads, MAX_HEADS), ("Gaussians", gaussians, MAX_GAUSSIANS), ("bond classes", classes, MAX_CLASSES))
    for what, size, limit in sizes:
        if size > limit:
            return f"the relation_bias kernels handle at most {limit} {what}, got {size}"
    if any(weight.dtype == torch.float64 for weight in weights):
        return "the relation_bias kernels compute in float32, got float64 weights"
    return None


class RelationBias(torch.autograd.Function):
    """Autograd around the two custom ops; tensors are their six inputs, three places of the layout, and ten weights."""

    @staticmethod
    def forward(ctx: Any, products: str, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        inputs, places, weights = tensors[:6], tensors[6:9], tensors[9:]
        bias_HP, sums_AK, *listed = relation_bias_forward(*inputs, list(weights), *places, products)
        ctx.save_for_backward(*tensors, *listed)
        ctx.products = products
        ctx.set_materialize_grads(False)
        return bias_HP.t(), sums_AK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_bias_PH: Tensor | None, d_sums_AK: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, places, weights, listed = saved[:6], saved[6:9], saved[9:19], saved[19:]
        d_bias_HP = None if d_bias_PH is None else d_bias_PH.t().float().contiguous()
        d_sums_AK = None if d_sums_AK is None else d_sums_AK.float().contiguous()
        gradients = relation_bias_backward(d_bias_HP, d_sums_AK, *inputs, list(weights), *places, *listed, ctx.products)
        return *[None] * 10, *gradients


def variants() -> list[Variant]:
    """Every configuration that the shipped presets can choose."""
    found: dict[str, Variant] = {}
    for heads, gaussians in SHIPPED:
        for products in ("tf32", "tf32x3"):
            for name, launch in launches(products, heads, gaussians, SHIPPED_CLASSES).items():
                sizes = [str(launch.constexprs[size]) for size in ("H", "K", "PRECISION") if size in launch.constexprs]
                full_name = "/".join([f"relation_bias_{name}", *sizes])
                signature = {a: TYPES.get(a, "*fp32") for a in launch.kernel.arg_names if a not in launch.constexprs}
                found[full_name] = Variant(full_name, launch.kernel, signature, launch.constexprs, launch.num_warps, NUM_STAGES)
    return list(found.values())


def self_test(device: torch.device) -> None:
    """Compare both outputs and all gradients with plain torch in float64 on a few small molecules.

    Raises:
        RuntimeError: they differ by more than rounding explains.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    def random_bytes(*shape: int, below: int) -> Tensor:
        return torch.randint(below, shape, generator=generator, dtype=torch.uint8).to(device)

    heads, gaussians, layout = 6, 40, Layout(torch.tensor([1, 17, 2, 9]), device)
    pairs, num_atoms = layout.num_pairs, layout.num_total_atoms
    path = random_bytes(pairs, 5, below=SHIPPED_CLASSES)
    what = (random_bytes(pairs, below=8), random_bytes(pairs, below=255) + 1, path, uniform(num_atoms) < 0.6)
    where = (4 * uniform(num_atoms, 3), random_bytes(num_atoms, below=119))
    shapes: tuple[tuple[int, ...], ...] = ((512, heads), (5, SHIPPED_CLASSES, heads), (1536,), (1536,), (gaussians,), (gaussians,))
    shapes += ((gaussians, gaussians), (gaussians,), (heads, gaussians), (heads,))
    weights = [uniform(*shape) - 0.5 for shape in shapes]
    weights[0][0] = 0  # the padding row
    weights[4:6] = [3 * uniform(gaussians), 0.3 + uniform(gaussians)]
    upstream = (uniform(pairs, heads) - 0.5, uniform(num_atoms, gaussians) - 0.5)

    def results(function: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> list[Tensor]:
        leaves = [weight.to(dtype).requires_grad_() for weight in weights]
        with torch.enable_grad():
            outputs = function(*what, where[0].to(dtype), where[1], leaves, layout)
        return [*outputs, *torch.autograd.grad(outputs, leaves, [u.to(dtype) for u in upstream])]

    # Products in TF32 keep 11 bits; a mistake in an index is an error of order 1.
    tolerance = 2e-2 if precision() == "tf32" else 1e-4
    names = ("bias", "sums", *(f"d_{name}" for name in RelationWeights._fields))
    for name, ours, exact in zip(names, results(relation_bias, torch.float32), results(_reference, torch.float64), strict=True):
        error = float((ours.detach().double() - exact.detach()).abs().max() / exact.detach().abs().max())
        if not error <= tolerance:
            raise RuntimeError(
                f"relation_bias on {device}: {name} is off by {error:.2e} of its largest value, allowed is {tolerance:.0e}; "
                "MOLEBLEND_OPS=relation_bias=reference runs plain torch instead"
            )


def _reference(shown_P, spd_P, path_P5, atom_distance_A, coordinates_A3, element_A, weights, layout) -> tuple[Tensor, Tensor]:
    bias_PH = spd_bias(shown_P, spd_P, weights[0]) + edge_bias(shown_P, spd_P, path_P5, weights[1])
    return distance_bias(bias_PH, shown_P, atom_distance_A, coordinates_A3, element_A, DistanceWeights(*weights[2:]), layout)
