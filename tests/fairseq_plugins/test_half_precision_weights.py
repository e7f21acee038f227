"""fairseq's optimizer for half precision with our copies between both kinds of weights, against fairseq's own code."""

import importlib.util

import pytest
import torch
from fairseq.optim import fp16_optimizer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fairseq_plugins.patches.half_precision_weights as ours

SHAPES = ((3, 4), (5,), (), (7, 2))


def fairseqs_own():
    """The module as it is without our patch, read anew."""
    spec = importlib.util.spec_from_file_location("fairseq.optim.fp16_optimizer_read_anew", fp16_optimizer.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._FP16OptimizerMixin


class Inner:
    """The optimizer in float32."""

    def __init__(self, parameters):
        self.params, self.supports_step_with_scale = parameters, False

    def multiply_grads(self, c):
        for p in self.params:
            p.grad.mul_(c)

    def step(self, closure, groups=None):
        with torch.no_grad():
            for p in self.params:
                p.sub_(p.grad, alpha=0.1)


def optimizer_of(mixin, flat, copies=SHAPES):
    """Weights in bfloat16, one of them not trained, and their float32 copies: each by itself, or end to end."""
    generator = torch.Generator().manual_seed(0)
    made = type("Optimizer", (mixin,), {})()
    made.fp16_params = [nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in copies]
    if flat:
        whole = nn.Parameter(torch.cat([p.detach().float().reshape(-1) for p in made.fp16_params]))
        whole.grad = torch.full_like(whole, 3)
        made.fp32_params, inner = {None: whole}, [whole]
    else:
        made.fp16_params[1].requires_grad_(False)
        made.fp32_params = inner = mixin.build_fp32_params(None, made.fp16_params, flatten=False)
        made.fp32_params[0].grad = None
    made.fp32_optimizer, made.scaler, made._needs_sync = Inner(inner), None, False
    return made


def update(optimizer, seed):
    """Two micro-batches' gradients, none for the last parameter, and a step with them."""
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    for _ in range(2):
        terms = [(p.float() * torch.randn(p.shape, generator=generator)).sum() for p in optimizer.fp16_params[:-1]]
        optimizer.backward(sum(terms))
    optimizer.multiply_grads(0.3)
    optimizer.step()


def numbers(optimizer):
    exact = list(optimizer.fp32_params.values()) if isinstance(optimizer.fp32_params, dict) else optimizer.fp32_params
    return [*optimizer.fp16_params, *exact, *(p.grad for p in exact)]


@pytest.mark.parametrize("flat", [False, True])
def test_the_same_bits_as_fairseqs(flat):
    theirs, mine = optimizer_of(fairseqs_own(), flat), optimizer_of(fp16_optimizer._FP16OptimizerMixin, flat)
    assert type(theirs).zero_grad is not type(mine).zero_grad is ours.zero_grad
    before = [p.detach().clone() for p in mine.fp16_params]
    for seed in range(3):
        update(theirs, seed)
        update(mine, seed)
        for a, b in zip(numbers(theirs), numbers(mine), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(mine.fp16_params[0], before[0])
    mine.zero_grad()
    assert all(p.grad is None for p in mine.fp16_params)
    assert not any(gradient.any() for gradient in numbers(mine)[-1 if flat else -len(SHAPES) :] if gradient is not None)


def test_gradients_are_copied_once_for_each_backward_pass():
    """What was clipped in between must not be undone."""
    optimizer = optimizer_of(fp16_optimizer._FP16OptimizerMixin, False)
    update(optimizer, 0)
    optimizer.fp32_params[0].grad.fill_(5)
    optimizer._sync_fp16_grads_to_fp32()
    assert (optimizer.fp32_params[0].grad == 5).all()


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ not in ("detach", "view", "slice", "alias"):
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("flat", [False, True])
def test_operations_do_not_grow_with_the_number_of_parameters(flat):
    optimizer = optimizer_of(fp16_optimizer._FP16OptimizerMixin, flat, copies=((2,),) * 50)
    update(optimizer, 0)
    optimizer.backward(sum(p.float().sum() for p in optimizer.fp16_params))
    with Operations() as run:
        optimizer._sync_fp16_grads_to_fp32()
        optimizer._sync_fp32_params_to_fp16()
        optimizer.zero_grad()
    assert run.names == ["_foreach_copy_", "_foreach_copy_", "_foreach_zero_"]
