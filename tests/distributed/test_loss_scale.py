"""fp16's loss scale goes on with a run; fp16 itself needs a GPU, so that its engine is stood in for by what keeps the scale."""

from types import SimpleNamespace

import pytest
import torch

from moleblend_fs.checkpoint.adam_state import AdamState
from tests.distributed.conftest import needs_deepspeed

pytestmark = needs_deepspeed


@pytest.mark.parametrize(("fp16", "saved", "expected"), [(True, 128.0, 128.0), (True, None, 65536.0), (False, 128.0, 65536.0)])
def test_a_saved_loss_scale_is_taken_up(fp16, saved, expected):
    from fairseq_plugins.optimizer import DeepSpeedConfig, DeepSpeedOptimizer

    optimizer = DeepSpeedOptimizer(DeepSpeedConfig(lr=[1e-3]), [torch.nn.Parameter(torch.zeros(2))])
    optimizer.engine = SimpleNamespace(optimizer=SimpleNamespace(loss_scale=65536.0), fp16_enabled=lambda: fp16)
    optimizer.take_options(AdamState(step={}, moments={}, options={"betas": (0.5, 0.6)}, loss_scale=saved))
    assert optimizer.zero.loss_scale == expected
    assert optimizer.optimizer.param_groups[0]["betas"] == (0.5, 0.6)


class Scaled:
    """The engine's arithmetic: gradients are divided by the loss scale of the time of the step, which an overflow halves."""

    def __init__(self, scale: float, gradient: float, overflow: bool = False):
        self.gradient, self.stepped_with = gradient, 0.0
        self.optimizer = SimpleNamespace(loss_scale=scale, overflow=overflow)

    def fp16_enabled(self) -> bool:
        return True

    def step(self) -> None:
        self.stepped_with = self.gradient / self.optimizer.loss_scale
        if self.optimizer.overflow:
            self.optimizer.loss_scale /= 2

    def get_global_grad_norm(self) -> float:
        return abs(self.stepped_with)


@pytest.mark.parametrize("factor", [1.0, 0.25, 1 / 3])
@pytest.mark.parametrize("overflow", [False, True])
def test_the_loss_scale_outlasts_the_step_that_it_normalises_gradients_by(factor, overflow):
    """`multiply_grads` is done by the loss scale of one step; the next step has the scale that the engine chose, not that one."""
    from fairseq_plugins.optimizer import DeepSpeedConfig, DeepSpeedOptimizer

    optimizer = DeepSpeedOptimizer(DeepSpeedConfig(lr=[1e-3]), [torch.nn.Parameter(torch.zeros(2))])
    optimizer.engine = engine = Scaled(1024.0, gradient=2048.0, overflow=overflow)
    for scale in (1024.0, 512.0 if overflow else 1024.0):
        optimizer.multiply_grads(factor)
        if overflow:
            with pytest.raises(OverflowError, match="loss scale is now"):
                optimizer.clip_grad_norm(1.0)
        else:
            assert float(optimizer.clip_grad_norm(1.0)) == pytest.approx(2 * factor)
        assert engine.stepped_with == pytest.approx(factor * 2048 / scale)
    assert engine.optimizer.loss_scale == pytest.approx(256.0 if overflow else 1024.0)
