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
