"""Options of the objectives."""

from dataclasses import dataclass

from moleblend_fs.errors import UserError

TARGETS = ("spd", "edge", "displacement", "distance", "noise")
"""What pretraining can predict; each has a loss, a weight and a head of the same name."""

LOSS_NAMES = {"spd": "spd", "edge": "edge", "displacement": "displacement", "distance": "distance", "noise": "noisy_nodes"}


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Blend-then-predict, and every single-modality objective of the same machine (paper, Tables 3, 4 and 7).

    Attributes:
        blend_ratio: probabilities of showing SPD, edge and distance for a pair; sum to 1.
        mask_ratio: share of pairs that show nothing, e.g. with blend_ratio (1, 0, 0) for SPD mask-then-predict.
        predict: which targets are predicted.
        predict_pairs: "all" pairs, or only those that do not show the predicted relation ("hidden").
        noise_scale: standard deviation of the coordinate noise, Angstrom.
        weights: loss weight of every target, in the order of `TARGETS`.
    """

    blend_ratio: tuple[float, float, float] = (0.2, 0.2, 0.6)
    mask_ratio: float = 0.0
    predict: tuple[str, ...] = ("spd", "edge", "displacement", "noise")
    predict_pairs: str = "all"
    noise_scale: float = 0.2
    weights: tuple[float, float, float, float, float] = (0.1, 0.1, 0.5, 0.5, 6.0)

    def __post_init__(self) -> None:
        if len(self.blend_ratio) != 3 or min(self.blend_ratio) < 0 or abs(sum(self.blend_ratio) - 1) > 1e-6:
            raise UserError(
                f"--blend-ratio must be three shares (SPD, edge, distance) that sum to 1, got {list(self.blend_ratio)} "
                f"with sum {sum(self.blend_ratio):g}; the paper's is 0.2,0.2,0.6"
            )
        if not 0 <= self.mask_ratio < 1:
            raise UserError(f"--mask-ratio must lie in [0, 1), got {self.mask_ratio}")
        if not self.predict or set(self.predict) - set(TARGETS) or len(set(self.predict)) != len(self.predict):
            raise UserError(f"--predict takes one or more of {', '.join(TARGETS)}, got {', '.join(self.predict) or 'nothing'}")
        if self.predict_pairs not in ("all", "hidden"):
            raise UserError(f"--predict-pairs must be all or hidden, got {self.predict_pairs!r}")
        if self.noise_scale < 0:
            raise UserError(f"--noise-scale must not be negative, got {self.noise_scale}")
        if "noise" in self.predict and self.noise_scale == 0:
            raise UserError("--predict noise needs a --noise-scale above 0")
        if min(self.weights) < 0:
            raise UserError(f"loss weights must not be negative, got {list(self.weights)}")

    def weight(self, target: str) -> float:
        """Loss weight of a target."""
        return self.weights[TARGETS.index(target)]
