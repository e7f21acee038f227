"""The blend's kernel against plain Python, on the device where it is to run."""

import torch

from moleblend_fs.data.graph import NUM_BOND_CLASSES
from moleblend_fs.ops.blend import EDGE_CLASSES, IGNORED, OUT_OF_RANGE, Blend, Rules, reference
from moleblend_fs.ops.blend.launch import blend
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.selftest_tolerance import compare

SIZES = (1, 12, 2, 5)
RULES = Rules(
    relation_key=0x9E3779B9,
    atom_key=1,
    radius_key=0xFFFFFFFF,
    angle_key=77,
    limits=((1 << 31, 3 << 30, 3 << 30, 1 << 32), (1 << 30, 1 << 31, 15 << 28, 1 << 30)),
    noise_scale=0.2,
    hidden_only=True,
    edge_class=(IGNORED, *(kind % EDGE_CLASSES if kind % 7 else OUT_OF_RANGE for kind in range(NUM_BOND_CLASSES - 1))),
)


def self_test(device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> None:
    """Compare all that is drawn for a few small molecules.

    Raises:
        OtherNumbers: something is other than it should be; the noise may differ by rounding.
    """
    random = torch.Generator().manual_seed(0)
    layout = Layout(torch.tensor(SIZES), device)
    pairs, atoms = layout.num_pairs, layout.num_total_atoms
    spd = torch.randint(0, 14, (pairs,), generator=random, dtype=torch.uint8)
    spd[::9] = 255
    given = (
        torch.tensor([7, -3, (5 << 32) + 11, 0]),
        torch.tensor([True, True, False, True]),
        spd,
        torch.randint(0, NUM_BOND_CLASSES, (pairs, 5), generator=random, dtype=torch.uint8),
        torch.randn(atoms, 3, generator=random),
    )
    exact = reference.blend(*given, layout, RULES)
    numbers, known, spd, path, points = (x.to(device) for x in given)
    ours = blend(numbers, known, spd, path, points, layout, RULES)
    compare(f"blend kernel on {device}", Blend._fields, [x.cpu() for x in ours], [x.double() for x in exact], 1e-6)
