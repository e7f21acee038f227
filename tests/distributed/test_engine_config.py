"""DeepSpeed's configuration from options and a user's file; what is refused, and by what name."""

import json

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.zero.engine import EngineOptions, engine_config
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import BASE, zero
from tests.fairseq_plugins.runs import train

OPTIONS = {"stage": 2, "offload": False, "update_freq": 4, "clip_norm": 1.0, "bf16": True, "fp16": False}


def config(tmp_path, user, parameters=None, **changes):
    path = tmp_path / "user.json"
    path.write_text(user if isinstance(user, str) else json.dumps(user))
    return engine_config(EngineOptions(**{**OPTIONS, "user_file": str(path), **changes}), parameters)


def test_what_options_say_without_a_file():
    made = engine_config(EngineOptions(**OPTIONS | {"bf16": False, "fp16": True, "fp16_init_scale": 1024, "offload": True}))
    assert made["fp16"] == {"enabled": True, "initial_scale_power": 10}
    assert made["bf16"] == {"enabled": False}
    assert made["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"], made["gradient_clipping"]) == (1, 4, 1.0)
    assert made["zero_allow_untested_optimizer"] is True
    assert made["zero_force_ds_cpu_optimizer"] is False
    smallest = engine_config(EngineOptions(**OPTIONS | {"fp16": True, "fp16_init_scale": 0}))
    assert smallest["fp16"]["initial_scale_power"] == 0


def test_a_users_keys_are_added(tmp_path):
    made = config(
        tmp_path, {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}, "bf16": {"enabled": "auto"}, "wall_clock_breakdown": True}
    )
    assert made["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}
    assert made["bf16"] == {"enabled": True}
    assert made["wall_clock_breakdown"] is True
    assert made["gradient_clipping"] == 1.0


def test_the_buffer_of_gradients_is_no_larger_than_the_model(tmp_path):
    def bucket(parameters, **user):
        made = config(tmp_path, {"zero_optimization": user}, parameters=parameters)
        return made["zero_optimization"].get("reduce_bucket_size")

    assert bucket(4_000_000) == 4_000_000
    assert bucket(10**9) == 500_000_000
    assert bucket(4_000_000, reduce_bucket_size=1000) == 1000
    assert bucket(4_000_000, reduce_bucket_size="auto") == 4_000_000
    assert bucket(None) is None


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3 there, but --zero-stage says 2"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5 there, but --clip-norm says 1.0"),
        ({"gradient_accumulation_steps": 2}, "--update-freq says 4"),
        ({"fp16": {"enabled": True}}, "--fp16 says False"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "--zero-offload says 'none'"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "offload_param.device is 'nvme'"),
        ({"optimizer": {"type": "Adam"}}, "'optimizer' cannot be set there"),
        ({"train_batch_size": 8}, "--batch-size"),
        ("[1]", "a JSON object is needed"),
        ("{", "--deepspeed-config"),
    ],
)
def test_contradictions_are_named(tmp_path, user, said):
    with pytest.raises(UserError, match=r".*") as error:
        config(tmp_path, user)
    assert said in str(error.value)


def test_float32_accumulation_of_bfloat16_at_stage_1(tmp_path):
    user = {"data_types": {"grad_accum_dtype": "fp32"}}
    with pytest.raises(UserError, match="grad_accum_dtype"):
        config(tmp_path, user, stage=1)
    assert config(tmp_path, user)["data_types"] == user["data_types"]


@needs_deepspeed
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--store-ema",), "--store-ema does not go with --optimizer deepspeed"),
        (("--amp",), "--amp does not go"),
        (("--bf16", "--memory-efficient-bf16"), "--memory-efficient-bf16 does not go"),
        (("--fp16",), "--fp16 needs a GPU"),
        (("--zero-stage", "0"), "--zero-stage 0: choose 1, 2 or 3"),
        (("--deepspeed-config", "/nowhere.json"), "--deepspeed-config /nowhere.json"),
        (("--write-checkpoints-asynchronously",), "half-written"),
    ],
)
def test_refused_at_the_start_by_name(store, tmp_path, options, said):
    refused = train(store.path, tmp_path, *BASE, *zero(1), *options)
    assert refused.code == 2
    assert said in refused.output
