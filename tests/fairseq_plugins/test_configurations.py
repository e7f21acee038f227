"""fairseq's configuration, hastened (`tests/support/configurations.py`), is fairseq's configuration."""

import dataclasses
import inspect

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from hydra import compose, initialize
from hydra._internal import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import fairseq_plugins.finetuning_task
import fairseq_plugins.pretraining_task  # noqa: F401
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SGD, SMALL
from tests.support import configurations

ODD = ("--save-dir", "runs/a b, c:d=[e]", "--blend-ratio", "0.5,0.5,0", "--lr", "1e-3,5e-4", "--ddp-comm-hook", "fp16")
COMMANDS = {
    "pretraining": (*PRETRAIN, *ADAM, *SMALL),
    "pretraining by other words": (*PRETRAIN, *ADAM, *SMALL, *ODD, "--seed", "7"),
    "finetuning": (*FINETUNE, *SGD, "--inputs", "2d", "--max-update", "3"),
    "finetuning by a schedule": (*FINETUNE, *ADAM, "--lr-scheduler", "cosine", "--max-update", "3", "--warmup-updates", "1"),
}


@pytest.fixture
def as_hydra_does(monkeypatch):
    """A function to call once the hastened one has been seen."""

    def restore():
        monkeypatch.setattr(OverridesParser, "parse_rule", configurations._parse_rule)
        monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", configurations._load)
        monkeypatch.setattr(utils, "inspect", inspect)

    monkeypatch.setattr(OverridesParser, "parse_rule", configurations.parse_rule)
    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", configurations.load)
    return restore


def configuration(*words, **changed):
    args = options.parse_args_and_arch(options.get_training_parser(), ["STORE", *words])
    vars(args).update(changed)
    return convert_namespace_to_omegaconf(args)


def all_of(cfg):
    """Values with their types, in their order, and whether there may be others."""
    return repr(OmegaConf.to_container(cfg)), OmegaConf.is_struct(cfg), OmegaConf.is_struct(cfg.model)


def test_what_is_read_is_the_same(as_hydra_does):
    """Also the second time, and after others of the same kind."""
    hastened = {}
    for name in (*COMMANDS, *COMMANDS):
        hastened.setdefault(name, []).append(all_of(configuration(*COMMANDS[name])))
    as_hydra_does()
    assert hastened == {name: [all_of(configuration(*words))] * 2 for name, words in COMMANDS.items()}


def test_a_setting_is_of_one_configuration_alone(as_hydra_does):
    GlobalHydra.instance().clear()
    with initialize(config_path=None):
        first, second = compose("config", ["common.seed=7"]), compose("config", ["common.log_interval=9"])
    assert [(cfg.common.seed, cfg.common.log_interval) for cfg in (first, second)] == [(7, 100), (1, 9)]


def test_what_is_refused_is_the_same(as_hydra_does):
    told = []
    for restore in (lambda: None, as_hydra_does):
        restore()
        with pytest.raises(Exception, match="log_format") as error:
            configuration(*COMMANDS["pretraining"], log_format="neither")
        told.append((type(error.value), str(error.value)))
    assert told[0] == told[1]


def test_what_is_registered_later_is_read(as_hydra_does):
    words, schedules = COMMANDS["finetuning"], ConfigStore.instance().repo["lr_scheduler"]
    before, known = configuration(*words), schedules["fixed.yaml"]
    assert "colour" not in before.lr_scheduler
    kind = dataclasses.make_dataclass("Other", [("colour", str, "red")], bases=(OmegaConf.get_type(known.node),))
    ConfigStore.instance().store(name="fixed", group="lr_scheduler", node=kind)
    try:
        assert configuration(*words).lr_scheduler.colour == "red"
    finally:
        schedules["fixed.yaml"] = known
