"""The configurations that are launched, for the table of resources."""

from moleblend_fs.ops.blend.kernels import blend_molecules
from moleblend_fs.ops.blend.launch import ATOMS, BLOCK, WARPS
from moleblend_fs.ops.kernel_common import Variant

TYPES = {
    **dict.fromkeys(("molecule_id_B", "cu_atoms", "cu_pairs", "limits"), "*i64"),
    **dict.fromkeys(("has_coordinates_B", "spd_P", "path_P5", "relations_P", "distances_A", "noisy_A"), "*u8"),
    **dict.fromkeys(("edge_class", "spd_class_P", "edge_P5"), "*i8"),
    **dict.fromkeys(("coordinates_A3", "noise_A3", "shown_A3", "displacement_P3", "weight_P"), "*fp32"),
    **dict.fromkeys(("relation_key", "atom_key", "radius_key", "angle_key"), "i32"),
    "numbers": "*fp64",
    "tallies_B": "*i32",
}


def variants() -> list[Variant]:
    """For both choices of `--predict-pairs`."""
    found = []
    for hidden_only in (False, True):
        sizes = {"HIDDEN_ONLY": hidden_only, "BLOCK": BLOCK, "ATOMS": ATOMS}
        found.append(Variant(f"blend/{'hidden' if hidden_only else 'all'}", blend_molecules, TYPES, sizes, WARPS, 1))
    return found
