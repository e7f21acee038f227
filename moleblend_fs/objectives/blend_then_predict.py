"""Blend-then-predict (paper, section 3): every pair shows one of its relations, drawn at random, and all of them are to be predicted,
and the noise on the coordinates.

Shape legend: B molecules, A atoms, P ordered pairs.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import NUM_BOND_CLASSES, UNREACHABLE, bond_class_features
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.model.target_classes import EDGE_CLASSES, SPD_CLASSES, PretrainingTargets, distance_class
from moleblend_fs.objectives.common.hashed_draws import ATOM, NOISE_ANGLE, NOISE_RADIUS, RELATION, categories, draw_noise, key, uniform
from moleblend_fs.objectives.common.information import information_bound
from moleblend_fs.objectives.objective import NATS, Curve, Objective, Pictured, Prepared, Read, Term
from moleblend_fs.ops.blend import EDGE_AT, GEOMETRY_AT, IGNORED, NOISY_AT, OUT_OF_RANGE, OUT_OF_RANGE_AT, SPD_AT, TALLIES, Rules
from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from moleblend_fs.option_fields import option

PREDICT_PAIRS = ("all", "hidden")
GEOMETRY_TARGETS = ("displacement", "distance")

TARGETS = ("spd", "edge", "displacement", "distance", "noise")
"""What pretraining can predict; the model's heads and outputs have the same names."""

LOSS_NAMES = {"spd": "spd", "edge": "edge", "displacement": "displacement", "distance": "distance", "noise": "noisy_nodes"}
"""Target -> what its loss is called in logs and golden files."""


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Blend-then-predict, and every single-modality objective of the same machine (paper, Tables 3, 4 and 7)."""

    blend_ratio: tuple[float, float, float] = option(
        (0.2, 0.2, 0.6), "probabilities of showing SPD, edge and 3D distance for a pair, e.g. 0.2,0.2,0.6"
    )
    mask_ratio: float = option(0.0, "share of pairs that show no relation (single-modality masking: --blend-ratio 1,0,0)")
    predict_pairs: str = option("all", "predict a relation for all pairs, or only where it is not shown", PREDICT_PAIRS)
    geometry_target: str = option(
        "displacement", "3D target: direction of r_j - r_i by its cosine, or |r_i - r_j| by Smooth-L1", GEOMETRY_TARGETS
    )
    noise_scale: float = option(0.2, "standard deviation of the coordinate noise, Angstrom")
    spd_weight: float = option(0.1, "weight of the shortest-path loss; 0: not predicted")
    edge_weight: float = option(0.1, "weight of the bond-type loss; 0: not predicted")
    geometry_weight: float = option(0.5, "weight of the 3D loss; 0: not predicted")
    noise_weight: float = option(6.0, "weight of the noisy-nodes loss; 0: not predicted")

    def __post_init__(self) -> None:
        if len(self.blend_ratio) != 3 or min(self.blend_ratio) < 0 or abs(sum(self.blend_ratio) - 1) > 1e-6:
            raise UserError(
                f"--blend-ratio must be three shares (SPD, edge, distance) that sum to 1, got {list(self.blend_ratio)} "
                f"with sum {sum(self.blend_ratio):g}; the paper's is 0.2,0.2,0.6"
            )
        if not 0 <= self.mask_ratio < 1:
            raise UserError(f"--mask-ratio must lie in [0, 1), got {self.mask_ratio}")
        if self.predict_pairs not in PREDICT_PAIRS:
            raise UserError(f"--predict-pairs must be all or hidden, got {self.predict_pairs!r}")
        if self.geometry_target not in GEOMETRY_TARGETS:
            raise UserError(f"--geometry-target must be displacement or distance, got {self.geometry_target!r}")
        for name in ("noise_scale", "spd_weight", "edge_weight", "geometry_weight", "noise_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} must not be negative, got {getattr(self, name)}")
        if self.noise_weight > 0 and self.noise_scale == 0:
            raise UserError("--noise-scale 0 leaves no noise to predict; set --noise-weight 0 as well")
        if not self.predict:
            raise UserError("all loss weights are 0: set at least one of --spd-weight, --edge-weight, --geometry-weight, --noise-weight")

    @property
    def weights(self) -> dict[str, float]:
        """Loss weight of every target that is predicted."""
        every = {
            "spd": self.spd_weight,
            "edge": self.edge_weight,
            self.geometry_target: self.geometry_weight,
            "noise": self.noise_weight,
        }
        return {name: weight for name, weight in every.items() if weight > 0}

    @property
    def predict(self) -> tuple[str, ...]:
        """The targets that are predicted."""
        return tuple(self.weights)


def share_rows(config: BlendConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Shares of SPD, edge and distance of molecules without and with coordinates, that leave none masked: without them SPD and edge are
    renormalised, or nothing is shown."""
    spd, edge, _ = config.blend_ratio
    factor = 1 / (spd + edge) if spd + edge > 0 else 0.0
    return (spd * factor, edge * factor, 0.0), config.blend_ratio


def relation_shares(config: BlendConfig, has_coordinates: Tensor) -> Tensor:
    """(B, 3) shares of SPD, edge and distance; the rest shows nothing."""
    shares = constant(share_rows(config), torch.float64, has_coordinates.device)
    return shares[has_coordinates.long()] * (1 - config.mask_ratio)


def rules_of(config: BlendConfig, *, seed: int, epoch: int) -> Rules:
    """What `draw_blend` and `targets_of` go by, for the kernel: shares as limits of 32 random bits."""
    limits = []
    for row in share_rows(config):
        shares = [share * (1 - config.mask_ratio) for share in row]
        ends = [*itertools.accumulate(shares), 1 - shares[2] / (1 - config.mask_ratio)]
        limits.append(tuple(math.ceil(end * 2**32) for end in ends))
    return Rules(
        relation_key=key(RELATION, seed, epoch),
        atom_key=key(ATOM, seed, epoch),
        radius_key=key(NOISE_RADIUS, seed, epoch),
        angle_key=key(NOISE_ANGLE, seed, epoch),
        limits=tuple(limits),
        noise_scale=config.noise_scale,
        hidden_only=config.predict_pairs == "hidden",
        edge_class=edge_classes(),
    )


def draw_blend(batch: MoleculeBatch, layout: Layout, config: BlendConfig, *, seed: int, epoch: int) -> tuple[Shown, Tensor]:
    """One blend of every molecule (paper, Eq. 8) and the noise on its coordinates.

    Each ordered pair shows one relation, or none with probability `mask_ratio`. Each atom gets its 3D feature with the
    share of the distance relation, else its degree.

    Returns:
        What the model is shown, with the noise already in its coordinates, and the noise (A, 3), Angstrom.
    """
    shares = relation_shares(config, batch.has_coordinates)
    pair_molecule, atom_molecule = layout.pair_molecule, layout.atom_molecule
    draws = uniform(RELATION, seed, epoch, batch.molecule_id[pair_molecule], layout.pair_place)
    table = constant((SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE, 0), torch.uint8, draws.device)
    relations = table[categories(draws, shares[pair_molecule])]
    atom_share = shares[:, 2] / (1 - config.mask_ratio)
    distances = uniform(ATOM, seed, epoch, batch.molecule_id[atom_molecule], layout.atom_number) >= 1 - atom_share[atom_molecule]
    distances = distances & batch.has_coordinates[atom_molecule]
    noise = draw_noise(batch, layout, scale=config.noise_scale, seed=seed, epoch=epoch)
    shown = Shown(relations=relations, degree=~distances, distances=distances, coordinates=batch.coordinates + noise)
    return shown, noise


CLASSES = {"spd": SPD_CLASSES, "edge": EDGE_CLASSES}
"""Targets that are classes, and how many there are."""


@functools.cache
def edge_classes() -> tuple[int, ...]:
    """Target of each bond class 0 ... 60."""
    kind, stereo, conjugated = bond_class_features().T
    target = np.where((kind < 4) & (stereo < 3), 6 * kind + 2 * stereo + conjugated, OUT_OF_RANGE)
    assert len(target) == NUM_BOND_CLASSES - 1
    return IGNORED, *target.tolist()


def edge_class_table(device: torch.device) -> Tensor:
    """`edge_classes`, (61,) int8."""
    return constant(edge_classes(), torch.int8, device)


def targets_of(batch: MoleculeBatch, layout: Layout, shown: Shown, noise: Tensor, config: BlendConfig) -> PretrainingTargets:
    """Targets of every pair and atom."""
    off_diagonal = layout.pair_row != layout.pair_column
    hidden_only = config.predict_pairs == "hidden"

    def counts(relation: int) -> Tensor:
        return off_diagonal & ((shown.relations & relation) == 0) if hidden_only else off_diagonal

    spd = batch.spd.long()
    spd_class = torch.where(counts(SHOW_SPD) & (spd != UNREACHABLE), distance_class(spd), IGNORED)
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
    for name, classes in CLASSES.items():
        if name in config.predict:
            target = getattr(targets, name).reshape(-1).long()
            slot = torch.where(target >= 0, target, classes)
            zeros = torch.zeros(classes + 1, device=target.device)
            result[name] = zeros.index_add(0, slot, torch.ones_like(slot, dtype=zeros.dtype))[:classes]
    return result


def bonds_out_of_range(targets: PretrainingTargets) -> Tensor:
    """How many (pair, hop)s are left out because the 24 edge classes do not cover the bond."""
    return (targets.edge == OUT_OF_RANGE).sum()


class Blended(NamedTuple):
    """What the model is shown of a batch, what it is to predict, and what a kernel counted of that (`ops.blend`)."""

    shown: Shown
    targets: PretrainingTargets
    tallies: Tensor | None = None


def tallied(config: BlendConfig) -> dict[str, slice]:
    """Where in the kernel's tallies that stands of each target which its loss is a mean over."""
    geometry = slice(GEOMETRY_AT, GEOMETRY_AT + 1)
    every = {
        "spd": slice(SPD_AT, SPD_AT + SPD_CLASSES),
        "edge": slice(EDGE_AT, EDGE_AT + EDGE_CLASSES),
        "displacement": geometry,
        "distance": geometry,
        "noise": slice(NOISY_AT, NOISY_AT + 1),
    }
    return {name: every[name] for name in config.predict}


class BlendThenPredict(Objective):
    """See the module."""

    name: ClassVar[str] = "blend_then_predict"
    aliases: ClassVar[tuple[str, ...]] = ("blend",)
    Options: ClassVar[type] = BlendConfig
    options: BlendConfig
    curves: ClassVar[dict[str, Curve]] = {
        "spd": Curve("Shortest path distance", NATS, information="spd_information", about="shortest path distances"),
        "edge": Curve("Edges along the path", NATS, information="edge_information", about="edges along the path"),
        "displacement": Curve("3D displacement", "1 - cosine", uninformed=1.0),
        "distance": Curve("3D distance", "Smooth-L1 (\u00c5)"),
        "noisy_nodes": Curve("Noise on the coordinates", "1 - cosine", uninformed=1.0),
    }

    columns: ClassVar[dict[str, str]] = {"blend_ratio": "blend", "mask_ratio": "masked"}

    @classmethod
    def weighing(cls, weights: Mapping[str, float]) -> "BlendThenPredict":
        options = {"spd": "spd_weight", "edge": "edge_weight", "displacement": "geometry_weight", "noise": "noise_weight"}
        given: dict[str, Any] = {option: weights[LOSS_NAMES[target]] for target, option in options.items() if LOSS_NAMES[target] in weights}
        return cls(BlendConfig(**given))

    def heads(self) -> tuple[str, ...]:
        return self.options.predict

    def terms(self) -> tuple[Term, ...]:
        return tuple(Term(LOSS_NAMES[target], weight) for target, weight in self.options.weights.items())

    def check(self, manifest: Manifest, store: str) -> None:
        if manifest.molecules_with_3d == 0 and (self.options.geometry_weight > 0 or self.options.noise_weight > 0):
            raise UserError(
                f"{store} has no 3D structures, but 3D targets are asked for; "
                "set --geometry-weight 0 --noise-weight 0, or preprocess a source with structures (or with --conformers)"
            )

    @property
    def prepares_on_device(self) -> bool:
        return True

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        if uses_triton("blend", batch.spd.device):
            return self.prepare_by_kernel(batch, layout, rules_of(self.options, seed=seed, epoch=epoch))
        return self.prepare_shown(batch, layout, *draw_blend(batch, layout, self.options, seed=seed, epoch=epoch))

    def prepare_by_kernel(self, batch: MoleculeBatch, layout: Layout, rules: Rules) -> Prepared:
        """The same as `draw_blend` and `prepare_shown`, in one kernel."""
        from moleblend_fs.ops.blend.launch import blend

        given = (batch.molecule_id, batch.has_coordinates, batch.spd, batch.path_bonds, batch.coordinates)
        made = blend(*given, layout, rules)
        shown = Shown(relations=made.relations, degree=~made.distances, distances=made.distances, coordinates=made.coordinates)
        targets = PretrainingTargets(made.spd, made.edge, made.displacement, made.geometry_weight, made.noise, made.noisy)
        columns = [[float(at in range(*where.indices(TALLIES))) for at in range(TALLIES)] for where in tallied(self.options).values()]
        counts = constant(tuple(map(tuple, columns)), torch.float64, made.tallies.device) @ made.tallies.double()
        return Prepared(batch, layout, counts, Blended(shown, targets, made.tallies))

    def prepare_shown(self, batch: MoleculeBatch, layout: Layout, shown: Shown, noise: Tensor) -> Prepared:
        targets = targets_of(batch, layout, shown, noise, self.options)
        return Prepared(batch, layout, count_targets(targets, layout, self.options), Blended(shown, targets))

    def pictured(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Pictured:
        shown, _ = draw_blend(batch, layout, self.options, seed=seed, epoch=epoch)
        ratio = ", ".join(f"{share:g}" for share in self.options.blend_ratio)
        masked = f", and none with probability {self.options.mask_ratio:g}" if self.options.mask_ratio else ""
        return Pictured(shown.relations, f"drawn with the probabilities {ratio}{masked}")

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        shown, targets, _ = prepared.parts
        losses = model(prepared.batch, shown, prepared.layout, targets).losses
        return torch.stack([losses[target] for target in self.options.predict])

    def statistics(self, prepared: Prepared) -> dict[str, Tensor]:
        targets, tallies = prepared.parts.targets, prepared.parts.tallies
        if tallies is not None:
            classes = {name: tallies[where] for name, where in tallied(self.options).items() if name in CLASSES}
            return {"bonds_out_of_range": tallies[OUT_OF_RANGE_AT : OUT_OF_RANGE_AT + 1], **classes}
        return {"bonds_out_of_range": bonds_out_of_range(targets).reshape(1), **class_counts(targets, self.options)}

    def logged(self) -> dict[str, Callable[[Read], float]]:
        """Bonds left out, and lower bounds of the information, in nats, that the input has of SPD and edge."""

        def bound(target: str) -> Callable[[Read], float]:
            return lambda read: round(information_bound(read.statistic(target), read.mean(LOSS_NAMES[target])), 4)

        bounds = {f"{target}_information": bound(target) for target in CLASSES if target in self.options.predict}
        return {"bonds_out_of_range": lambda read: float(read.statistic("bonds_out_of_range")[0]), **bounds}
