"""Which implementation runs, and what happens where it cannot."""

import importlib

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.ops import dispatch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "_configured", "auto")
    forget = dispatch._tested.cache_clear
    forget()
    yield
    forget()


def test_plain_torch_on_the_cpu_unless_told_otherwise(monkeypatch):
    assert not any(dispatch.uses_triton(op, CPU) for op in dispatch.OPS)
    assert dispatch.describe("attention", CPU) == "reference (plain torch)"


def test_one_choice_for_all_ops_or_one_for_each():
    assert dispatch.parse("triton", "--ops") == dict.fromkeys(dispatch.OPS, "triton")
    expected = {"relation_bias": "reference", "attention": "triton", "pair_projection": "auto"}
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
    monkeypatch.setattr(dispatch, "_tested", lambda op, device: None)
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
    entry = {"relation_bias": "relation_bias", "attention": "apply_attention", "pair_projection": "pair_cross_entropy"}[op]
    right = getattr(kernels, entry)

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        return (out[0] * 1.001, *out[1:]) if isinstance(out, tuple) else out * 1.001

    monkeypatch.setattr(kernels, entry, wrong)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            dispatch.uses_triton(op, device)
