"""Shapes of models that are not made."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.heads import HEADS
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shape_only import Unallocated

CONFIG = ModelConfig(**PRESETS["tiny"], heads=HEADS)


def test_shapes_are_those_of_the_model_and_take_no_memory():
    with Unallocated():
        bare = MoleBlend(CONFIG).state_dict()
    whole = MoleBlend(CONFIG).state_dict()
    assert [(name, value.shape) for name, value in bare.items()] == [(name, value.shape) for name, value in whole.items()]
    assert sum(value.nbytes for value in bare.values() if not value.is_meta) < 1000 < sum(value.nbytes for value in whole.values()) / 1000


def test_nothing_is_drawn():
    """What torch would import its compiler for: of meta tensors it would not show, but of others, which are treated alike."""
    linear, before = nn.Linear(3, 4), torch.get_rng_state()
    kept = linear.weight.detach().clone()
    with Unallocated(), torch.no_grad():
        assert linear.weight.normal_(0, 1) is linear.weight
        linear.weight.uniform_()
        linear.reset_parameters()
        nn.init.normal_(linear.weight)
        nn.init.trunc_normal_(tensor=linear.weight)
    assert torch.equal(linear.weight, kept)
    assert torch.equal(torch.get_rng_state(), before)


class Computed(TorchDispatchMode):
    """Operations on tensors without values."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(isinstance(value, torch.Tensor) and value.is_meta for value in args):
            self.names.add(str(function.overloadpacket))
        return function(*args, **(kwargs or {}))


def test_nothing_is_computed_of_what_has_no_values():
    """For which torch would import sympy: a fifth of what one prediction takes."""
    with Computed() as computed, Unallocated(), torch.no_grad():
        MoleBlend(ModelConfig(**PRESETS["tiny"], heads=("property",), tasks=2, output_scale=10.0))
        divided = torch.ones(2).div_(4)
    assert computed.names <= {"aten.detach", "aten.zero_", "aten.fill_", "aten.select", "aten.slice", "aten.alias"}
    assert divided.tolist() == [0.25, 0.25]
