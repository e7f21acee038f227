"""Options of the pretraining objective."""

from dataclasses import dataclass

from moleblend_fs.errors import UserError

TARGETS = ("spd", "edge", "displacement", "distance", "noise")
"""What pretraining can predict; the model's heads and outputs have the same names."""

LOSS_NAMES = {"spd": "spd", "edge": "edge", "displacement": "displacement", "distance": "distance", "noise": "noisy_nodes"}
"""Target -> what its loss is called in logs and golden files."""


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Blend-then-predict, and every single-modality objective of the same machine (paper, Tables 3, 4 and 7).

    Attributes:
        blend_ratio: probabilities of showing SPD, edge and distance for a pair; sum to 1.
        mask_ratio: share of pairs that show nothing, e.g. with blend_ratio (1, 0, 0) for SPD mask-then-predict.
        predict_pairs: "all" pairs, or only those that do not show the predicted relation ("hidden").
        geometry_target: "displacement" r_j - r_i by its cosine, or "distance" |r_i - r_j| by Smooth-L1.
        noise_scale: standard deviation of the coordinate noise, Angstrom.
        spd_weight, edge_weight, geometry_weight, noise_weight: loss weights; what weighs 0 is not predicted.
    """

    blend_ratio: tuple[float, float, float] = (0.2, 0.2, 0.6)
    mask_ratio: float = 0.0
    predict_pairs: str = "all"
    geometry_target: str = "displacement"
    noise_scale: float = 0.2
    spd_weight: float = 0.1
    edge_weight: float = 0.1
    geometry_weight: float = 0.5
    noise_weight: float = 6.0

    def __post_init__(self) -> None:
        if len(self.blend_ratio) != 3 or min(self.blend_ratio) < 0 or abs(sum(self.blend_ratio) - 1) > 1e-6:
            raise UserError(
                f"--blend-ratio must be three shares (SPD, edge, distance) that sum to 1, got {list(self.blend_ratio)} "
                f"with sum {sum(self.blend_ratio):g}; the paper's is 0.2,0.2,0.6"
            )
        if not 0 <= self.mask_ratio < 1:
            raise UserError(f"--mask-ratio must lie in [0, 1), got {self.mask_ratio}")
        if self.predict_pairs not in ("all", "hidden"):
            raise UserError(f"--predict-pairs must be all or hidden, got {self.predict_pairs!r}")
        if self.geometry_target not in ("displacement", "distance"):
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
