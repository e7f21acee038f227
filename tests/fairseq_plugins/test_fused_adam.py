"""torch's fused AdamW against fairseq's Adam: the same path, and each goes on from the other's state."""

import copy

import pytest
import torch
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig
from fairseq.optim.fp16_optimizer import MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf

from fairseq_plugins.patches.configuration import old_adam_for_less_memory
from fairseq_plugins.patches.fused_adam import FusedAdam, OnePassAdam

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}


def walk(optimizer, parameters, updates, seed):
    """Some updates with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def start(kind):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,))]
    return kind(parameters, **OPTIONS), parameters


def test_the_same_path_as_fairseqs():
    (one, ours), (two, theirs) = start(FusedAdam), start(Adam)
    walk(one, ours, 20, 1)
    walk(two, theirs, 20, 1)
    before = start(Adam)[1]
    for a, b, c in zip(ours, theirs, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert (a - c).abs().max() > 0.05


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fairseqs_formula_in_one_pass(decay):
    """To the last digits, also where epsilon is as large as the gradients and in the first updates, whose bias corrections are large."""
    parameters = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 4), (5,), (7, 16), (33,))]
    options = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1.0, "weight_decay": decay}
    ours, theirs, far = ([torch.nn.Parameter(p.clone()) for p in parameters] for _ in range(3))
    one, two, three = OnePassAdam(ours, **options), Adam(theirs, **options), FusedAdam(far, **options)
    for updates, seed in ((1, 1), (1, 2), (9, 3)):
        for optimizer, weights in ((one, ours), (two, theirs), (three, far)):
            walk(optimizer, weights, updates, seed)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
            for key in ("exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(one.state[p][key], two.state[q][key], rtol=1e-6, atol=1e-7)
    apart = [float((p - q).detach().abs().max()) for p, q in zip(ours, far, strict=True)]
    assert max(apart) > 1e-4, "epsilon after the bias correction is far off"


def test_a_numbers_place_in_an_array_does_not_matter():
    """Bit for bit: of 992 numbers, in arrays of 1 to 61 of them, which leave most over at the end of a vector, and in one."""
    generator = torch.Generator().manual_seed(0)
    weights, gradients = torch.randn(992, generator=generator), torch.randn(992, 3, generator=generator)
    sizes = [*range(1, 44), 46]
    whole, parts = torch.nn.Parameter(weights.clone()), [torch.nn.Parameter(p.clone()) for p in weights.split(sizes)]
    one, many = OnePassAdam([whole], **OPTIONS), OnePassAdam(parts, **OPTIONS)
    for gradient in gradients.t():
        whole.grad = gradient.clone()
        for p, g in zip(parts, gradient.split(sizes), strict=True):
            p.grad = g.clone()
        one.step()
        many.step()
    assert torch.equal(whole, torch.cat([p.data for p in parts]))
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(one.state[whole][key], torch.cat([many.state[p][key] for p in parts]))
    assert not torch.equal(whole, weights)


def test_parameters_without_a_gradient_stay_and_count_no_update():
    optimizer, parameters = start(OnePassAdam)
    before = [p.detach().clone() for p in parameters]
    parameters[1].grad = torch.ones(5)
    optimizer.step()
    assert torch.equal(parameters[0], before[0])
    assert not torch.equal(parameters[1], before[1])
    parameters[0].grad = torch.ones(3, 4)
    optimizer.step()
    assert [optimizer.state[p]["step"] for p in parameters] == [1, 2]
    # A first update is the learning rate long, whatever the gradient is.
    torch.testing.assert_close(parameters[0].data, before[0] * (1 - 1e-4) - 1e-2, rtol=0, atol=1e-6)


def test_a_learning_rate_of_zero_moves_moments_alone():
    optimizer, parameters = start(OnePassAdam)
    before = [p.detach().clone() for p in parameters]
    optimizer.param_groups[0]["lr"] = 0.0
    walk(optimizer, parameters, 1, 1)
    assert all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
    assert all(optimizer.state[p]["exp_avg"].any() for p in parameters)


def test_weights_in_half_precision_are_left_to_fairseq():
    """--memory-efficient-bf16: weights of bfloat16 with moments of float32."""
    (one, ours), (two, theirs) = start(OnePassAdam), start(Adam)
    for optimizer, parameters in ((one, ours), (two, theirs)):
        for p in parameters:
            p.data = p.data.bfloat16()
            p.grad = torch.ones_like(p)
        optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        assert one.state[p]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize(("old", "kind"), [(False, OnePassAdam), (True, Adam)])
def test_which_adam_fairseq_takes_on_the_cpu(old, kind):
    cfg = FairseqAdamConfig(adam_betas="(0.9, 0.98)", adam_eps=1e-6, weight_decay=0.5, use_old_adam=old, tpu=False, lr=[0.25])
    optimizer = FairseqAdam(cfg, iter([torch.nn.Parameter(torch.zeros(3))])).optimizer
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert [group[key] for key in ("lr", "betas", "eps", "weight_decay")] == [0.25, (0.9, 0.98), 1e-6, 0.5]
    assert len(group["params"]) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [(FusedAdam, Adam), (Adam, FusedAdam), (FusedAdam, FusedAdam), (OnePassAdam, Adam), (Adam, OnePassAdam), (FusedAdam, OnePassAdam)],
)
def test_either_goes_on_from_the_others_state(first, second):
    whole, expected = start(first)
    walk(whole, expected, 5, 1)
    saved, weights = copy.deepcopy(whole.state_dict()), [p.detach().clone() for p in expected]
    walk(whole, expected, 5, 2)
    other, parameters = start(second)
    with torch.no_grad():
        for p, w in zip(parameters, weights, strict=True):
            p.copy_(w)
    other.load_state_dict(saved)
    assert all(isinstance(entry["step"], int) for entry in saved["state"].values())
    walk(other, parameters, 5, 2)
    for a, b in zip(parameters, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_moments_in_half_precision_are_refused():
    with pytest.raises(NotImplementedError, match="apex"):
        FusedAdam([torch.nn.Parameter(torch.zeros(2))], use_fp16_stats=True, **OPTIONS)


@pytest.mark.parametrize("option", ["memory_efficient_bf16", "memory_efficient_fp16"])
def test_less_memory_is_had_with_fairseqs_own_on_a_gpu(monkeypatch, option):
    """fairseq's optimizer for that refuses torch's, by an exception that is no message."""
    common = {"memory_efficient_bf16": False, "memory_efficient_fp16": False, "cpu": False, option: True}
    cfg = OmegaConf.create({"common": common, "optimizer": {"_name": "adam", "use_old_adam": False}})
    weights = [torch.nn.Parameter(torch.zeros(3))]
    wrapped = FairseqAdam(FairseqAdamConfig(lr=[1e-2], adam_betas="(0.9, 0.99)"), weights)
    wrapped._optimizer = FusedAdam(weights, **OPTIONS)
    with pytest.raises(ValueError, match="Unsupported optimizer: FairseqAdam"):
        MemoryEfficientFP16Optimizer(cfg, weights, wrapped)
    old_adam_for_less_memory(cfg)
    assert not cfg.optimizer.use_old_adam, "on a CPU ours does"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    old_adam_for_less_memory(cfg)
    assert cfg.optimizer.use_old_adam
