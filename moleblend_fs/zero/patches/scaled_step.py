"""Relies on ZeRO's optimizers (DeepSpeed 0.19) dividing gradients by their loss scale before they clip and step, all in one call."""

from typing import Any

PINS = {
    "deepspeed.runtime.engine.DeepSpeedEngine.step": "6a46940da2d5",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler.update_scale": "1c959aef8148",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.loss_scale": "71b025820d78",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.step": "050c36d7948f",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.loss_scale": "71b025820d78",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.step": "dfc83b7912f0",
}


def step_with_gradients_times(engine: Any, factor: float) -> float:
    """Multiply gradients, clip and step; the norm before clipping.

    The loss scale is divided by the factor for this one call, so that gradients are normalised before they are clipped.

    Raises:
        OverflowError: fp16 gradients are not finite; the step was left out and the loss scale lowered.
        FloatingPointError: other gradients are not finite, or the loss scale cannot be lowered any more; there was no step.
    """
    zero = engine.optimizer
    true_scale = zero.loss_scale
    zero.loss_scale = true_scale / factor
    ratio = zero.loss_scale / true_scale
    try:
        engine.step()
    except Exception as error:
        if "loss scale already at minimum" in str(error):  # a plain Exception in DeepSpeed
            raise FloatingPointError(str(error)) from error
        raise
    finally:
        zero.loss_scale = zero.loss_scale / ratio
    if zero.overflow:
        if engine.fp16_enabled():
            raise OverflowError(f"loss scale is now {zero.loss_scale}")
        raise FloatingPointError("gradients are not finite")  # found by ZeRO itself, in bfloat16
    return float(engine.get_global_grad_norm())
