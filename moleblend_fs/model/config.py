"""What shapes a model, and the shipped sizes."""

from dataclasses import dataclass, field, replace

from moleblend_fs.errors import UserError
from moleblend_fs.option_fields import option

TOKEN, MEAN, TOKEN_AND_MEAN = "token", "mean", "token+mean"
READOUTS = (TOKEN, MEAN, TOKEN_AND_MEAN)
"""What stands for a molecule: its graph token, the mean of its atoms, or the sum of both; see `model.readout`."""
FEWEST_POINTS, MOST_POINTS = 16, 2**20
"""Of the table of the distance encoding."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Size and regularisation of the encoder and its heads; the defaults are the base model's (paper, section 4.1 and release).

    Attributes:
        heads: names of the heads that the model carries.
        tasks: outputs of the property head.
        predicted_3d: whether it carries a `DistancePredictor`.
        molecule_values: outputs of heads that predict all values of a sidecar for each molecule.
        sizes: of other heads, where they follow from the data, by name, see `size_of`.
    """

    layers: int = option(12, "transformer blocks")
    embed_dim: int = option(768, "width of an atom's representation")
    ffn_dim: int = option(768, "hidden width of the feed-forward part")
    attention_heads: int = option(32, "attention heads; must divide --embed-dim")
    gaussians: int = option(128, "Gaussians of the distance encoding")
    pair_dim: int = option(32, "width of each side of the outer-product projection")
    hidden_3d: int = option(256, "width between the outer product and the 3D outputs")
    dropout: float = option(0.0, "dropout of the outputs of each block's two branches")
    attention_dropout: float = option(0.1, "dropout of attention probabilities, the noise head's too")
    activation_dropout: float = option(0.1, "dropout after the feed-forward activation")
    drop_path: float = option(0.1, "stochastic depth per molecule at the last block, rising linearly from 0 at the first")
    heads: tuple[str, ...] = ()
    tasks: int = 1
    molecule_values: int = 1
    sizes: dict[str, int] = field(default_factory=dict, hash=False)  # configurations are keys of caches
    predicted_3d: bool = False
    readout: str = option(
        TOKEN, "what a molecule's values are predicted from: its graph token, the mean of its atoms, or the sum of both", READOUTS
    )
    output_scale: float = option(
        1.0, "factor of the property head's outputs; with Adam its last layer learns as many times faster than the encoder"
    )
    init_std: float = option(0.02, "standard deviation of weights at the start")
    distance_table: int = option(
        16384,
        "points of the table that the distance encoding is read from in half precision on a GPU; 0: computed for every pair, as elsewhere",
    )
    checkpoint_layers: int = option(0, "blocks, from the first, that are recomputed in the backward pass: less memory, more time")

    def __post_init__(self) -> None:
        for name in ("layers", "embed_dim", "ffn_dim", "attention_heads", "gaussians", "pair_dim", "hidden_3d", "tasks", "molecule_values"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.checkpoint_layers <= self.layers:
            raise UserError(f"--checkpoint-layers must lie in [0, {self.layers}], the number of layers, got {self.checkpoint_layers}")
        if self.distance_table and not FEWEST_POINTS <= self.distance_table <= MOST_POINTS:
            raise UserError(f"--distance-table must be 0 or lie in [{FEWEST_POINTS}, {MOST_POINTS}], got {self.distance_table}")
        if self.embed_dim % self.attention_heads:
            raise UserError(f"--embed-dim {self.embed_dim} must be a multiple of --attention-heads {self.attention_heads}")
        if self.readout not in READOUTS:
            raise UserError(f"--readout must be one of {', '.join(READOUTS)}, got {self.readout!r}")
        for name in ("init_std", "output_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must lie in [0, 1), got {getattr(self, name)}")

    def size_of(self, name: str) -> int:
        """One of `sizes`; 1 as long as no data are known, for an estimate of memory before there is a task."""
        return self.sizes.get(name, 1)

    def without_dropout(self) -> "ModelConfig":
        """The same model with the four dropout rates at 0."""
        return replace(self, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, drop_path=0.0)


SIZE = ("layers", "embed_dim", "ffn_dim", "attention_heads", "gaussians", "pair_dim", "hidden_3d")
"""What a shipped size sets."""
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"layers": 3, "embed_dim": 64, "ffn_dim": 64, "attention_heads": 4, "gaussians": 32, "pair_dim": 16, "hidden_3d": 64},
    "small": {"layers": 6, "embed_dim": 256, "ffn_dim": 256, "attention_heads": 8, "gaussians": 64, "pair_dim": 32, "hidden_3d": 128},
    "base": {name: getattr(ModelConfig, name) for name in SIZE},
    "large": {"layers": 24, "embed_dim": 1024, "ffn_dim": 1024, "attention_heads": 32, "gaussians": 128, "pair_dim": 32, "hidden_3d": 256},
    "huge": {"layers": 40, "embed_dim": 2048, "ffn_dim": 2048, "attention_heads": 64, "gaussians": 128, "pair_dim": 32, "hidden_3d": 256},
}
"""The shipped sizes; "base" is the paper's, "huge" has a billion parameters."""
HEAD_SIZES = ("pair_dim", "hidden_3d")
"""Of `SIZE`, what only pretraining's heads depend on."""


def architecture_options(config: ModelConfig, names: tuple[str, ...] = SIZE) -> str:
    """The shortest options of fairseq-train that give a model these sizes: an --arch, and what is not as it has it."""

    def differing(size: str) -> list[str]:
        return [name for name in names if PRESETS[size][name] != getattr(config, name)]

    nearest = min(PRESETS, key=lambda size: len(differing(size)))
    others = [f"--{name.replace('_', '-')} {getattr(config, name)}" for name in differing(nearest)]
    return " ".join([f"--arch moleblend_{nearest}", *others])
