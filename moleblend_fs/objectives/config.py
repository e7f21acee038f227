"""Options of the pretraining objective."""

from dataclasses import dataclass

from moleblend_fs.errors import UserError
from moleblend_fs.options import option

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
