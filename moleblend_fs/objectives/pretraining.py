"""Targets of blend-then-predict (paper, section 3.3) and how many places each loss is a mean over.

The heads give every loss unnormalised (`Outputs.losses`): a global batch, however it is split over ranks and micro-batches,
has one loss, sum of sums over sum of counts.
Shape legend: B molecules, A atoms, P ordered pairs.
"""

import functools

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import NUM_BOND_CLASSES, UNREACHABLE, bond_class_features
from moleblend_fs.model.heads import EDGE_CLASSES, SPD_CLASSES
from moleblend_fs.model.shown import Shown
from moleblend_fs.model.targets import PretrainingTargets
from moleblend_fs.objectives.config import BlendConfig
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD

IGNORED = -100
"""Target of a place that has none (past the path's end, diagonal, no path)."""
OUT_OF_RANGE = -101
"""Target of a bond whose features the 24 classes do not cover: misc bonds; CIS, TRANS, ANY stereo."""


@functools.cache
def edge_class_table(device: torch.device) -> Tensor:
    """Target of each bond class 0 ... 60, (61,) int8."""
    features = torch.from_numpy(bond_class_features())
    kind, stereo, conjugated = features.unbind(1)
    target = torch.where((kind < 4) & (stereo < 3), 6 * kind + 2 * stereo + conjugated, OUT_OF_RANGE)
    table = torch.cat([torch.tensor([IGNORED]), target]).to(torch.int8)
    assert len(table) == NUM_BOND_CLASSES
    return table.to(device)


def targets_of(batch: MoleculeBatch, layout: Layout, shown: Shown, noise: Tensor, config: BlendConfig) -> PretrainingTargets:
    """Targets of every pair and atom."""
    off_diagonal = layout.pair_row != layout.pair_column
    hidden_only = config.predict_pairs == "hidden"

    def counts(relation: int) -> Tensor:
        return off_diagonal & ((shown.relations & relation) == 0) if hidden_only else off_diagonal

    spd = batch.spd.long()
    spd_class = torch.where(counts(SHOW_SPD) & (spd != UNREACHABLE), spd.clamp(1, SPD_CLASSES) - 1, IGNORED)
    edge = edge_class_table(spd.device)[batch.path_bonds.long()]
    edge = torch.where(counts(SHOW_EDGE).unsqueeze(1), edge, IGNORED)
    geometry = counts(SHOW_DISTANCE) & batch.has_coordinates[layout.pair_molecule]
    per_molecule = torch.zeros(layout.num_molecules, device=spd.device).index_add(0, layout.pair_molecule, geometry.float())
    return PretrainingTargets(
        spd=spd_class.to(torch.int8),
        edge=edge,
        displacement=batch.coordinates[layout.pair_column] - batch.coordinates[layout.pair_row],
        geometry_weight=geometry / per_molecule.clamp(min=1)[layout.pair_molecule],
        noise=noise,
        # A lone atom has no neighbour whose direction could tell its noise: the head gives exactly 0, where a cosine has no gradient.
        noisy=shown.distances & (layout.cu_atoms.diff() > 1)[layout.atom_molecule],
    )


def count_targets(targets: PretrainingTargets, layout: Layout, config: BlendConfig) -> Tensor:
    """How many places each loss is a mean over, (targets,) float64 in the order of `config.predict`: pairs with a distance,
    (pair, hop)s with a class, molecules with a counted pair, molecules likewise, noisy atoms."""
    with_geometry = torch.zeros(layout.num_molecules, device=targets.spd.device)
    with_geometry = with_geometry.index_add(0, layout.pair_molecule, targets.geometry_weight)
    geometry = (with_geometry > 0).sum()
    counts = {
        "spd": (targets.spd >= 0).sum(),
        "edge": (targets.edge >= 0).sum(),
        "displacement": geometry,
        "distance": geometry,
        "noise": targets.noisy.sum(),
    }
    return torch.stack([counts[name] for name in config.predict]).double()


def class_counts(targets: PretrainingTargets, config: BlendConfig) -> dict[str, Tensor]:
    """Histogram (float32) of the SPD and edge classes that are predicted, for the entropy in the information bound."""
    result = {}
    for name, classes in (("spd", SPD_CLASSES), ("edge", EDGE_CLASSES)):
        if name in config.predict:
            target = getattr(targets, name).reshape(-1).long()
            slot = torch.where(target >= 0, target, classes)
            zeros = torch.zeros(classes + 1, device=target.device)
            result[name] = zeros.index_add(0, slot, torch.ones_like(slot, dtype=zeros.dtype))[:classes]
    return result


def bonds_out_of_range(targets: PretrainingTargets) -> Tensor:
    """How many (pair, hop)s are left out because the 24 edge classes do not cover the bond."""
    return (targets.edge == OUT_OF_RANGE).sum()
