"""Which implementation runs, and what happens where it cannot."""

import importlib

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.model import moleblend
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend, targets_of
from moleblend_fs.ops import dispatch
from moleblend_fs.ops.compile_ahead import Kernels
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import batch_of, graph

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "_configured", "auto")
    monkeypatch.setattr(dispatch, "_ready", set())
    forget = dispatch._tested.cache_clear
    forget()
    yield
    forget()


def test_plain_torch_on_the_cpu_unless_told_otherwise(monkeypatch):
    assert not any(dispatch.uses_triton(op, CPU) for op in dispatch.OPS)
    assert dispatch.describe("attention", CPU) == "reference (plain torch)"


def test_one_choice_for_all_ops_or_one_for_each():
    assert dispatch.parse("triton", "--ops") == dict.fromkeys(dispatch.OPS, "triton")
    expected = {**dict.fromkeys(dispatch.OPS, "auto"), "relation_bias": "reference", "attention": "triton"}
    assert dispatch.parse("attention=triton, relation_bias=reference", "--ops") == expected


@pytest.mark.parametrize("choice", ["fast", "attention", "attention=cuda", "spd=triton", ""])
def test_what_there_is_not_is_told(choice):
    with pytest.raises(UserError, match=r"--ops .*expected one of auto, triton, reference, or a list of OP=IMPLEMENTATION"):
        dispatch.configure(choice)


def test_kernels_that_cannot_run_are_an_error_only_where_they_were_asked_for(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch.configure("attention=triton")
    with pytest.raises(UserError, match=r"Triton kernels of attention were asked for but cannot run: .*; choose auto or reference"):
        dispatch.uses_triton("attention", CPU)
    assert dispatch.describe("attention", CPU).startswith("unusable: ")
    assert not dispatch.uses_triton("relation_bias", CPU)


def test_float64_is_computed_by_plain_torch(monkeypatch):
    monkeypatch.setattr(dispatch, "_tested", lambda *_: None)
    assert dispatch._obstacle(torch.device("cpu"), torch.float64) == "they compute in float32, and the inputs are float64"
    dispatch.configure("triton")
    with pytest.raises(UserError, match="float64"):
        dispatch.uses_triton("attention", CPU, torch.float64)


def test_the_variable_goes_before_the_option(monkeypatch):
    dispatch.configure("triton")
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert not dispatch.uses_triton("attention", CPU)
    monkeypatch.setenv(dispatch.VARIABLE, "attention=nothing")
    with pytest.raises(UserError, match=dispatch.VARIABLE):
        dispatch.uses_triton("attention", CPU)


@pytest.mark.parametrize("op", dispatch.OPS)
def test_kernels_that_give_other_numbers_end_the_run(op, monkeypatch):
    """A reference that is a thousandth off: the self-test must see it, every time it is asked."""
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    device = torch.device("cuda") if torch.cuda.is_available() else CPU
    dispatch.configure("triton")
    assert dispatch.uses_triton(op, device)
    dispatch._tested.cache_clear()
    kernels = importlib.import_module(f"moleblend_fs.ops.{op}.selftest")
    entry = {
        "blend": "blend",
        "relation_bias": "relation_bias",
        "attention": "apply_attention",
        "pair_projection": "pair_cross_entropy",
        "residual_norm": "residual_norm_linear",
        "gelu_dropout": "gelu_dropout_linear",
    }[op]
    right = getattr(kernels, entry)

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        return (out[0] * 1.001, *out[1:]) if isinstance(out, tuple) else out * 1.001

    monkeypatch.setattr(kernels, entry, wrong)
    for _ in range(2):
        with pytest.raises(dispatch.OtherNumbers):
            dispatch.uses_triton(op, device)


def gpu(monkeypatch, capability, hip=None):
    """A GPU as far as the choice looks at it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    dispatch._say_once.cache_clear()
    return torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("capability", "hip", "reason"),
    [
        ((7, 5), None, "sm_75, older than sm_80"),
        ((10, 0), None, "sm_100, newer than sm_90, which the kernels were not checked on; --ops triton"),
        ((12, 0), None, "sm_120, newer than sm_90"),
        ((9, 4), "6.4", "an AMD one, which the kernels were not checked on"),
    ],
)
def test_auto_takes_kernels_only_on_gpus_that_they_were_checked_on(capability, hip, reason, monkeypatch, caplog):
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    monkeypatch.setattr(dispatch, "_tested", lambda *_: None)
    device = gpu(monkeypatch, capability, hip)
    assert not any(dispatch.uses_triton("attention", device) for _ in range(2))
    assert [record.message for record in caplog.records] == [next(m for m in caplog.messages if reason in m)]
    dispatch.configure("triton")
    if capability < dispatch.LEAST_CAPABILITY:
        with pytest.raises(UserError, match="older than sm_80"):
            dispatch.uses_triton("attention", device)
    else:
        assert dispatch.uses_triton("attention", device)


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0)])
def test_auto_takes_kernels_from_sm_80_to_sm_90(capability, monkeypatch):
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    monkeypatch.setattr(dispatch, "_tested", lambda *_: None)
    assert dispatch.uses_triton("attention", gpu(monkeypatch, capability))


def test_kernels_that_do_not_compile_are_replaced_under_auto_and_end_the_run_where_they_were_asked_for(monkeypatch, caplog):
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    device = gpu(monkeypatch, (9, 0))
    tried = []

    def fails(device, dtype, shape):
        tried.append((dtype, shape))
        raise ValueError("no such instruction")

    monkeypatch.setattr(dispatch, "compile_ahead", lambda *_: None)
    monkeypatch.setattr(importlib.import_module("moleblend_fs.ops.attention.selftest"), "self_test", fails)
    assert not any(dispatch.uses_triton("attention", device, torch.bfloat16, (4, 16)) for _ in range(2))
    assert tried == [(torch.bfloat16, (4, 16))]  # once, for what is to run
    assert sum("plain torch on cuda:1" in m and "no such instruction" in m for m in caplog.messages) == 1
    dispatch.configure("triton")
    with pytest.raises(RuntimeError, match=r"asked for and fail on cuda:1 in torch\.bfloat16: no such instruction"):
        dispatch.uses_triton("attention", device, torch.bfloat16, (4, 16))


def test_kernels_that_will_run_are_compiled_together_and_once(monkeypatch):
    """On a GPU, and of the ops that use them there."""
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    compiled = []
    monkeypatch.setattr(dispatch, "compile_ahead", lambda wanted, device: compiled.append((device, wanted)))
    attention, bias, half = (
        Kernels("attention", torch.float32, (4, 16)),
        Kernels("relation_bias", torch.float32, (4, 8)),
        Kernels("attention", torch.bfloat16, (4, 16)),
    )
    dispatch.configure("relation_bias=reference")
    dispatch.make_ready(CPU, [attention])
    device = gpu(monkeypatch, (9, 0))
    for wanted in ([attention, bias], [bias, attention], [half, attention]):
        dispatch.make_ready(device, wanted)
    assert compiled == [(device, [attention]), (device, [half])]
    dispatch.configure("triton")
    dispatch.make_ready(gpu(monkeypatch, (7, 5)), [half._replace(shape=(4, 24))])
    assert len(compiled) == 2, "the use of the op says why it cannot run"


def test_the_model_has_its_own_sizes_checked(monkeypatch):
    """Type, heads, widths and Gaussians of the model that runs."""
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    monkeypatch.setattr(dispatch, "_obstacle", lambda *_: None)
    checked = set()

    def note(op, device, dtype, shape):
        checked.add((op, dtype, shape))
        return ValueError("not here")

    monkeypatch.setattr(dispatch, "_tested", note)
    monkeypatch.setattr(dispatch, "_choice", lambda op: "auto")
    monkeypatch.setattr(dispatch, "wants_triton", lambda *_: True)
    config = ModelConfig(
        layers=1, embed_dim=24, ffn_dim=8, attention_heads=3, gaussians=5, pair_dim=4, hidden_3d=6, heads=BlendConfig().predict
    )
    model = MoleBlend(config).to(torch.bfloat16)
    batch = batch_of([graph("CCO", 0)])
    layout = Layout(batch.num_atoms, "cpu")
    blend = BlendConfig()
    shown, noise = draw_blend(batch, layout, blend, seed=1, epoch=1)
    made_ready = []
    monkeypatch.setattr(moleblend, "make_ready", lambda device, wanted: made_ready.append((device, set(wanted))))
    model(batch, shown, layout, targets_of(batch, layout, shown, noise, blend))
    assert made_ready == [(CPU, checked)], "all at once, before the first"
    assert checked == {
        ("relation_bias", torch.bfloat16, (3, 5)),
        ("attention", torch.bfloat16, (3, 8)),
        ("residual_norm", torch.bfloat16, (4,)),
        ("atom_forces", torch.bfloat16, (3, 8)),
        ("pair_projection", torch.bfloat16, (4,)),
        ("residual_norm", torch.bfloat16, (24,)),
        ("gelu_dropout", torch.bfloat16, (8,)),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("attention", (2, 16)),
        ("atom_forces", (2, 16)),
        ("relation_bias", (4, 32)),
        ("pair_projection", (16,)),
        ("residual_norm", (64,)),
        ("gelu_dropout", (64,)),
    ],
)
def test_self_tests_in_half_precision(op, shape, dtype):
    """They pass, with the sizes of a shipped model."""
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    device = torch.device("cuda") if torch.cuda.is_available() else CPU
    importlib.import_module(f"moleblend_fs.ops.{op}.selftest").self_test(device, dtype, shape)
