"""The configurations that the shipped presets launch, for the table of resources."""

from moleblend_fs.data.graph import NUM_BOND_CLASSES
from moleblend_fs.ops.kernel_common import Variant
from moleblend_fs.ops.relation_bias.launches import NUM_STAGES, launches

SHIPPED = ((4, 32), (8, 64), (32, 128), (64, 128))
"""Heads and Gaussians of the shipped presets."""
TYPES = {
    **dict.fromkeys(("shown_P", "spd_P", "path_P5", "wants_A", "element_A"), "*u8"),
    **dict.fromkeys(("cu_atoms", "cu_pairs", "atom_molecule"), "*i64"),
    **dict.fromkeys(("counts", "ends", "count", "pair_M", "number_N", "read", "computed", "used", "starts"), "*i32"),
    **dict.fromkeys(("num_pairs", "num_atoms", "num_molecules", "search_steps", "number", "programs", "blocks"), "i32"),
    "order_M": "*i64",
    "block_M": "*i16",
}
"""Types of the kernels' arguments; the others are float32 tensors."""


def variants() -> list[Variant]:
    """Every configuration that the shipped presets can choose."""
    found: dict[str, Variant] = {}
    for heads, gaussians in SHIPPED:
        for products in ("tf32", "tf32x3"):
            for name, launch in launches(products, heads, gaussians, NUM_BOND_CLASSES).items():
                sizes = [str(launch.constexprs[size]) for size in ("H", "K", "PRECISION") if size in launch.constexprs]
                full_name = "/".join([f"relation_bias_{name}", *sizes])
                signature = {a: TYPES.get(a, "*fp32") for a in launch.kernel.arg_names if a not in launch.constexprs}
                found[full_name] = Variant(full_name, launch.kernel, signature, launch.constexprs, launch.num_warps, NUM_STAGES)
    return list(found.values())
