"""Casts to float32, and which instructions for bfloat16 a processor has, from what Linux says of it."""

import pytest
import torch

from moleblend_fs.ops.precision import all_at_least_float32, at_least_float32, bfloat16_instructions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\nbugs\t\t: spectre_v1\n", ["amx_bf16", "avx512_bf16"]),
        ("Features\t: fp asimd bf16 sve\n", ["bf16"]),
        ("flags\t\t: fpu avx512f avx512_vnni\nmodel name\t: no avx512_bf16 here\n", []),
    ],
)
def test_flags(tmp_path, text, found):
    (tmp_path / "cpuinfo").write_text(text)
    assert bfloat16_instructions(tmp_path / "cpuinfo") == found


def test_a_system_without_the_file(tmp_path):
    assert bfloat16_instructions(tmp_path / "cpuinfo") == []


def test_casts_together_are_casts_of_each():
    """Values, types and gradients; one of the results goes nowhere."""
    torch.manual_seed(0)
    dtypes = (torch.bfloat16, torch.float32, torch.float16, torch.bfloat16, torch.float64)
    given = [torch.randn(3, 2).to(dtype).requires_grad_() for dtype in dtypes]
    together, single = all_at_least_float32(given), [at_least_float32(x) for x in given]
    upstream = [torch.randn(3, 2, dtype=x.dtype) for x in single]
    for a, b in zip(together, single, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert together[1] is given[1]
    gradients = [
        torch.autograd.grad([ways[i] for i in (0, 1, 2, 4)], given, [upstream[i] for i in (0, 1, 2, 4)], allow_unused=True)
        for ways in (together, single)
    ]
    for a, b in zip(*gradients, strict=True):
        assert a is b is None or (a.dtype == b.dtype and torch.equal(a, b))
    assert gradients[0][3] is None
    assert all_at_least_float32([]) == []
