"""The command line's options are those of our dataclasses: defaults, helps and choices, through fairseq's own parser."""

import dataclasses
import pickle
import typing

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_plugins.given_numbers import check_numbers
from fairseq_plugins.model import MoleBlendModelConfig
from fairseq_plugins.options import our_options
from fairseq_plugins.pretraining_task import PretrainingConfig
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import PRESETS, SIZE, ModelConfig
from moleblend_fs.objectives.blend_then_predict import BlendConfig
from tests.fairseq_plugins.runs import ROOT, run_here

COMMAND = ("STORE", "--user-dir", "moleblend_fs", "--task", "moleblend", "--criterion", "blend_then_predict", "--optimizer", "adam")
OTHERS = {
    BlendConfig: {
        "blend_ratio": (0.5, 0.25, 0.25),
        "mask_ratio": 0.25,
        "predict_pairs": "hidden",
        "geometry_target": "distance",
        "noise_scale": 0.7,
        "spd_weight": 0.3,
        "edge_weight": 0.0,
        "geometry_weight": 1.5,
        "noise_weight": 2.0,
    },
    ModelConfig: {
        "layers": 5,
        "embed_dim": 96,
        "ffn_dim": 33,
        "attention_heads": 6,
        "gaussians": 9,
        "pair_dim": 11,
        "hidden_3d": 13,
        "dropout": 0.3,
        "attention_dropout": 0.2,
        "activation_dropout": 0.4,
        "drop_path": 0.05,
        "readout": "token+mean",
        "output_scale": 3.0,
        "init_std": 0.03,
        "distance_table": 4096,
        "checkpoint_layers": 2,
    },
}


def parsed(*words):
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), [*COMMAND, *words]))


def flags(given):
    words = []
    for name, value in given.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return words


def test_defaults_are_those_of_the_objective():
    assert our_options(BlendConfig, parsed("--arch", "moleblend_base").task) == BlendConfig()


@pytest.mark.parametrize("size", PRESETS)
def test_an_architecture_is_its_preset_with_the_defaults_of_the_model(size):
    assert our_options(ModelConfig, parsed("--arch", f"moleblend_{size}").model) == ModelConfig(**PRESETS[size])


def test_base_is_the_default():
    assert set(PRESETS["base"]) == set(SIZE)
    assert ModelConfig(**PRESETS["base"]) == ModelConfig()


def test_every_option_given_arrives():
    """No two share a value, and none is at its default, so that a mixed-up or lost one is seen."""
    cfg = parsed("--arch", "moleblend_tiny", *flags(OTHERS[BlendConfig]), *flags(OTHERS[ModelConfig]))
    for ours, part in ((BlendConfig, cfg.task), (ModelConfig, cfg.model)):
        given = OTHERS[ours]
        assert set(given) == {f.name for f in dataclasses.fields(ours) if "help" in f.metadata}
        assert all(getattr(ours(), name) != value for name, value in given.items())
        assert our_options(ours, part) == ours(**given)


@pytest.mark.parametrize(("theirs", "ours"), [(PretrainingConfig, BlendConfig), (MoleBlendModelConfig, ModelConfig)])
def test_helps_are_the_same_and_the_class_can_be_pickled(theirs, ours):
    made = {f.name: f for f in dataclasses.fields(theirs)}
    for field in dataclasses.fields(ours):
        if "help" in field.metadata:
            whose = "blend_then_predict: " if ours is BlendConfig else ""
            assert made[field.name].metadata["help"] == whose + field.metadata["help"]
            if typing.get_origin(field.type) is not tuple:
                assert made[field.name].default == field.default
    assert pickle.loads(pickle.dumps(theirs())) == theirs()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--spd-weight", "nan"), "--spd-weight must be a finite number, got nan"),
        (("--denoise-scale", "inf"), "--denoise-scale must be a finite number, got inf"),
        (("--clip-norm", "nan"), "--clip-norm must be a finite number"),
        (("--weight-decay", "nan"), "--weight-decay must be a finite number"),
        (("--lr=-1e-3",), "--lr must be at least 0, got -0.001"),
        (("--lr-scheduler", "cosine", "--warmup-updates", "-3"), "--warmup-updates must be at least 0"),
        (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--update-freq", "1,0"), "--update-freq must be at least 1, got 0"),
        (("--validate-interval", "0"), "--validate-interval must be at least 1"),
        (("--save-interval", "0"), "--save-interval must be at least 1"),
        (("--log-interval", "0"), "--log-interval must be at least 1"),
        (("--num-workers", "-1"), "--num-workers must be at least 0"),
        (("--max-pairs", "-1"), "--max-pairs must be at least 0"),
        (("--max-epoch", "-1"), "--max-epoch must be at least 0, got -1"),
        (("--max-update", "-1"), "--max-update must be at least 0, got -1"),
        (("--seed", "-1"), "--seed must be at least 0"),
        (("--seed", str(2**32)), "--seed must be at most 42939"),
    ],
)
def test_numbers_that_mean_nothing_are_told(given, said):
    """fairseq takes them; its defaults, and the least that is allowed, are none of them."""
    with pytest.raises(UserError, match=said):
        check_numbers(parsed("--arch", "moleblend_tiny", "--max-update", "5", *given))
    check_numbers(parsed("--arch", "moleblend_tiny", "--lr", "0", "--seed", "0", "--update-freq", "1,2", "--num-workers", "0"))


def test_other_choices_are_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit):
        parsed("--arch", "moleblend_tiny", "--predict-pairs", "some")
    assert "--predict-pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), {"--blend-ratio", "--embed-dim", "--objective-weights", "--max-pairs"}),
        (("--task", "moleblend", "--criterion", "pretrain"), {"--blend-ratio", "--attr-mask-rate", "--denoise-scale", "--objective"}),
        (("--task=moleblend_finetune", "--arch=moleblend_small", "--lr-scheduler", "cosine"), {"--regression-loss", "--lr-period-updates"}),
        (("--optimizer", "deepspeed"), {"--zero-stage", "--adam-betas"}),
    ],
)
def test_help_has_the_options_of_what_is_named(given, named, tmp_path, capsys):
    """fairseq prints its help before it knows them."""
    run = run_here([*given, "--help", "--user-dir", str(ROOT / "moleblend_fs")], tmp_path)
    assert run.code == 0
    shown = {line.split()[0].rstrip(",") for line in capsys.readouterr().out.splitlines() if line.startswith("  -")}
    assert named <= shown, named - shown
