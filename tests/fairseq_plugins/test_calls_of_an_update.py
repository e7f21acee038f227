"""What every update calls, made cheaper: seeds and configuration give what fairseq's and omegaconf's own do."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest
import torch
from fairseq import utils
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import II, MISSING, DictConfig, OmegaConf, open_dict
from torch.profiler import profile

from fairseq_plugins.patches import configuration_reads, seeds


@pytest.mark.skipif(torch.cuda.is_available(), reason="fairseq's own is used where there is a GPU")
def test_a_seed_gives_the_same_numbers_and_leaves_nothing_behind():
    assert utils.set_torch_seed is seeds.SetTorchSeed
    torch.manual_seed(7)
    expected, outside = torch.rand(3), torch.get_rng_state()
    kept = len(torch.cuda._queued_calls)
    with utils.set_torch_seed(7):
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.get_rng_state(), outside), "set back"
    assert len(torch.cuda._queued_calls) == kept


@pytest.mark.parametrize("factor", [0.5, torch.tensor(1.0), torch.tensor(3.0), float("nan"), 1.0, 1])
def test_gradients_are_multiplied_where_that_changes_them(factor):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.tensor([1.0, -2.0, torch.inf])
    expected = weight.grad * factor
    adam = FairseqAdam(FairseqAdamConfig(adam_betas="(0.9, 0.98)", tpu=False, lr=[0.1]), [weight])
    with profile() as operations:
        adam.multiply_grads(factor)
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=0, equal_nan=True)
    multiplied = any("mul" in event.key for event in operations.key_averages())
    assert multiplied == (isinstance(factor, torch.Tensor) or factor != 1)


class Colour(Enum):
    red = 1


@dataclass
class Part:
    rate: float = 0.5
    name: str = "a"
    lacking: str = MISSING
    none: int | None = None
    yes: bool = True
    other: Any = II("top.number")  # noqa: RUF009
    within: str = "x${top.number}"
    colour: Colour = Colour.red
    rates: list[float] = field(default_factory=lambda: [0.1])


KEYS = [*Part.__dataclass_fields__, "not_there", "_content", "__name__", "keys", "empty", "plain"]


def outcome(read, config, key):
    try:
        found = read(config, key)
    except Exception as error:
        return type(error), str(error)
    return type(found), found


@pytest.mark.parametrize("key", KEYS)
def test_configuration_is_read_as_omegaconf_does(key):
    assert DictConfig.__getattr__ is configuration_reads.read
    whole = OmegaConf.create({"top": {"number": 3, "rate": 2}, "part": OmegaConf.structured(Part), "empty": None, "plain": "${top}"})
    whole.empty = DictConfig(None)
    for config in (whole, whole.part, whole.top):
        assert outcome(configuration_reads.read, config, key) == outcome(configuration_reads._omegaconf_getattr, config, key)


def test_configuration_that_changes_is_read_anew():
    config = OmegaConf.structured(Part)
    assert config.rate == 0.5
    with open_dict(config):
        config.rate, config.more = 2, "b"
    assert (config.rate, config.more) == (2.0, "b")
    assert OmegaConf.to_container(OmegaConf.create({"a": {"b": 1}})) == {"a": {"b": 1}}
