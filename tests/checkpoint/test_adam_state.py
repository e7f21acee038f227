"""Adam's state by parameter: what one optimizer saves is what another finds, in any order and in one piece or many."""

import pytest
import torch

from moleblend_fs.checkpoint.adam_state import MOMENTS, AdamState, from_table, join_flat, shapes_of, split_flat, to_table
from moleblend_fs.errors import UserError

SHAPES = {"a": torch.Size((2, 3)), "b": torch.Size((4,)), "c": torch.Size(())}
OPTIONS = {"lr": 0.1, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}


def values(shape, start):
    return torch.arange(start, start + shape.numel(), dtype=torch.float32).view(shape)


def state(names=("a", "b", "c"), loss_scale=None) -> AdamState:
    """Every number differs; parameters have taken different numbers of steps."""
    moments = {key: {name: values(SHAPES[name], 100 * k + 10 * i) for i, name in enumerate(names)} for k, key in enumerate(MOMENTS)}
    return AdamState(step={name: 5 + i for i, name in enumerate(names)}, moments=moments, options=OPTIONS, loss_scale=loss_scale)


def assert_same(found: AdamState, expected: AdamState) -> None:
    assert found.step == expected.step
    assert (found.options, found.loss_scale) == (expected.options, expected.loss_scale)
    for key in MOMENTS:
        assert found.moments[key].keys() == expected.moments[key].keys()
        assert all(torch.equal(found.moments[key][name], value) for name, value in expected.moments[key].items())


@pytest.mark.parametrize("loss_scale", [None, 128.0])
@pytest.mark.parametrize("order", [["a", "b", "c"], ["c", "a", "b"]])
def test_what_is_saved_is_what_is_read(order, loss_scale):
    """In the order of the model that saves, which need not be the reader's; a parameter without a gradient so far has no state."""
    for names in (("a", "b", "c"), ("a", "c")):
        saved = to_table(state(names, loss_scale), order)
        assert saved["param_groups"] == [{**OPTIONS, "step": 4 + len(names), "params": [0, 1, 2]}]
        assert ("loss_scale" in saved) == (loss_scale is not None)
        assert set(saved["state"]) == {order.index(name) for name in names}
        assert_same(from_table(saved, SHAPES, "here"), state(names, loss_scale))


def test_a_state_that_never_stepped():
    saved = to_table(AdamState(step={}, moments={key: {} for key in MOMENTS}), list(SHAPES))
    assert saved["state"] == {}
    assert saved["param_groups"][0]["step"] == 0
    assert_same(from_table(saved, SHAPES, "here"), AdamState(step={}, moments={key: {} for key in MOMENTS}))


def test_fused_kernels_count_steps_by_group():
    saved = to_table(state(), list(SHAPES))
    for entry in saved["state"].values():
        del entry["step"]
    assert from_table(saved, SHAPES, "here").step == dict.fromkeys(SHAPES, 7)
    del saved["param_groups"][0]["step"]
    assert from_table(saved, SHAPES, "here").step == dict.fromkeys(SHAPES, 0)


def test_fairseqs_own_tables_have_no_names():
    saved = to_table(state(), list(SHAPES))
    del saved["names"]
    assert_same(from_table(saved, SHAPES, "here"), state())


def test_states_of_other_parameters_are_refused():
    saved = to_table(state(), list(SHAPES))
    for other in ({"a": SHAPES["a"]}, {**SHAPES, "d": torch.Size((1,))}, {"a": SHAPES["a"], "b": SHAPES["b"], "x": SHAPES["c"]}):
        with pytest.raises(UserError, match=r"here: the optimizer's state is of other parameters .* --reset-optimizer"):
            from_table(saved, other, "here")
    del saved["names"]
    with pytest.raises(UserError, match="other parameters"):
        from_table(saved, {"a": SHAPES["a"], "b": SHAPES["b"]}, "here")


def test_one_flat_buffer_and_back():
    """fairseq's fp16: all parameters end to end."""
    expected = state()
    table, shapes = to_table(expected, list(SHAPES))["state"], list(SHAPES.values())
    flat = join_flat(table, shapes)
    assert set(flat) == {0}
    assert flat[0]["step"] == 7
    for key in MOMENTS:
        assert torch.equal(flat[0][key], torch.cat([expected.moments[key][name].flatten() for name in SHAPES]))
    again = split_flat(flat[0], shapes)
    assert all(torch.equal(again[i][key], table[i][key]) for i in range(3) for key in MOMENTS)
    assert {entry["step"] for entry in again.values()} == {7}
    read = from_table({"state": flat, "param_groups": [{**OPTIONS, "params": [0]}]}, SHAPES, "here")
    assert_same(read, AdamState(step=dict.fromkeys(SHAPES, 7), moments=expected.moments, options=OPTIONS))


def test_a_flat_buffer_has_zeros_where_a_parameter_has_no_state():
    table = to_table(state(("a", "c")), list(SHAPES))["state"]
    flat = join_flat(table, list(SHAPES.values()))[0]["exp_avg"]
    assert flat.tolist() == [*range(6), 0, 0, 0, 0, 10]
    assert join_flat({}, list(SHAPES.values())) == {}


def test_a_model_of_one_parameter_is_not_taken_for_a_flat_buffer():
    shapes = {"a": SHAPES["a"]}
    saved = to_table(state(("a",)), ["a"])
    assert from_table(saved, shapes, "here").moments["exp_avg"]["a"].shape == (2, 3)


def test_pieces():
    whole = state(("a", "b"))
    assert whole.piece("exp_avg", "a", 2, 3).tolist() == [2, 3, 4]
    assert whole.piece("exp_avg_sq", "b", 1, 2).tolist() == [111, 112]
    assert whole.piece("exp_avg", "c", 0, 1).tolist() == [0]


def test_only_trained_parameters_have_a_shape_and_the_one_that_is_kept_aside_counts():
    frozen, spread, plain = torch.nn.Parameter(torch.zeros(3), requires_grad=False), torch.nn.Parameter(torch.zeros(0)), torch.zeros(2)
    spread.ds_shape = torch.Size((5, 2))
    assert shapes_of([("frozen", frozen), ("spread", spread), ("plain", torch.nn.Parameter(plain))]) == {"spread": (5, 2), "plain": (2,)}
