"""An op is one folder: CONTRIBUTING's steps, followed in a copy of the packages; its kernels run in Triton's interpreter."""

import pytest

from tests.support.package_copy import Copy

FILES = {
    "__init__": '''
"""x sigmoid(x) of every element."""

from torch import Tensor

from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.swish import reference


def swish(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    if uses_triton("swish", x.device, x.dtype):
        from moleblend_fs.ops.swish import launch

        return launch.swish(x)
    return reference.swish(x)
''',
    "reference": '''
"""The op in plain torch."""

import torch
from torch import Tensor


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)
''',
    "kernels": '''
"""The op's kernels."""

import triton
import triton.language as tl


@triton.jit
def swish_forward(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < count, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, x / (1 + tl.exp(-x)), mask=place < count)


@triton.jit
def swish_backward(x_ptr, d_out_ptr, d_x_ptr, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < count, other=0.0).to(tl.float32)
    d_out = tl.load(d_out_ptr + place, mask=place < count, other=0.0).to(tl.float32)
    s = 1 / (1 + tl.exp(-x))
    tl.store(d_x_ptr + place, d_out * (s + x * s * (1 - s)), mask=place < count)
''',
    "launch": '''
"""The op by its kernels: the same as `reference`."""

import torch
import triton
from torch import Tensor

from moleblend_fs.ops.kernel_common import kernel_op
from moleblend_fs.ops.swish.kernels import swish_backward, swish_forward

BLOCK = 128


@kernel_op("moleblend::swish_forward")
def forward(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    swish_forward[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), BLOCK=BLOCK)
    return out


@forward.register_fake
def _(x):
    return torch.empty_like(x)


@kernel_op("moleblend::swish_backward")
def backward(x: Tensor, d_out: Tensor) -> Tensor:
    d_x = torch.empty_like(x)
    swish_backward[(triton.cdiv(x.numel(), BLOCK),)](x, d_out.contiguous(), d_x, x.numel(), BLOCK=BLOCK)
    return d_x


@backward.register_fake
def _(x, d_out):
    return torch.empty_like(x)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return forward(x)

    @staticmethod
    def backward(ctx, d_out):
        return backward(*ctx.saved_tensors, d_out)


def swish(x: Tensor) -> Tensor:
    return Swish.apply(x.contiguous())
''',
    "selftest": '''
"""The kernels against plain torch, on the device where they are to run."""

import torch

from moleblend_fs.ops.selftest_tolerance import compare, tolerance_of
from moleblend_fs.ops.swish import launch, reference


def self_test(device, dtype=torch.float32, shape=None) -> None:
    random = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(300, generator=random).to(device, dtype) for _ in range(2))
    with torch.enable_grad():
        x.requires_grad_()
        exact = x.detach().double().requires_grad_()
        ours, theirs = launch.swish(x), reference.swish(exact)
        (d_ours,), (d_theirs,) = torch.autograd.grad(ours, x, upstream), torch.autograd.grad(theirs, exact, upstream.double())
    compare(f"swish kernels on {device} in {dtype}", ("output", "d x"), (ours, d_ours), (theirs, d_theirs), tolerance_of(dtype))
''',
    "variants": '''
"""What is compiled for the table of resources."""

from moleblend_fs.ops.kernel_common import TRITON_TYPES, Variant
from moleblend_fs.ops.swish.kernels import swish_backward, swish_forward
from moleblend_fs.ops.swish.launch import BLOCK


def variants() -> list[Variant]:
    found = []
    for short in TRITON_TYPES.values():
        for kernel in (swish_forward, swish_backward):
            signature = {name: f"*{short}" if name.endswith("_ptr") else "i32" for name in kernel.arg_names if name != "BLOCK"}
            found.append(Variant(f"{kernel.__name__}/{short}", kernel, signature, {"BLOCK": BLOCK}, 4, 1))
    return found
''',
}
CHECK = """
import torch
from moleblend_fs.ops import dispatch
from moleblend_fs.ops.swish import launch, reference, swish
from moleblend_fs.ops.swish.variants import variants

assert "swish" in dispatch.OPS, dispatch.OPS
print(dispatch.describe("swish", torch.device("cpu")))
calls, forward = [], launch.forward
launch.forward = lambda x: calls.append(x) or forward(x)
x = torch.randn(5, 77, dtype=torch.float64).float().requires_grad_()
torch.testing.assert_close(swish(x), reference.swish(x))
print("kernels" if calls else "plain torch", len(variants()))
"""


@pytest.mark.slow
def test_a_new_op_is_one_folder(tmp_path):
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    copy = Copy(tmp_path / "code", {f"moleblend_fs/ops/swish/{name}.py": text for name, text in FILES.items()})
    chosen = copy.run("-c", CHECK, TRITON_INTERPRET="1", MOLEBLEND_OPS="swish=triton")
    assert chosen.stdout.splitlines() == ["Triton kernels, self-test passed", "kernels 6"], chosen.stderr
    plain = copy.run("-c", CHECK.replace("len(variants())", "6"), MOLEBLEND_OPS="auto")
    assert plain.stdout.splitlines() == ["reference (plain torch)", "plain torch 6"], plain.stderr


def test_kernels_with_a_mistake_do_not_pass(tmp_path):
    pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    files = FILES | {"kernels": FILES["kernels"].replace("s + x * s", "s - x * s")}
    copy = Copy(tmp_path / "code", {f"moleblend_fs/ops/swish/{name}.py": text for name, text in files.items()})
    chosen = copy.run("-c", CHECK, TRITON_INTERPRET="1", MOLEBLEND_OPS="swish=triton")
    assert chosen.stdout.startswith("unusable: swish kernels on cpu in torch.float32: off by more than"), chosen.stdout + chosen.stderr
    assert "d x" in chosen.stdout
