"""What is missing around asynchronous products is seen in small programs, and nothing else is."""

import pytest

from benchmarks.wgmma_waits import faults, products

PRODUCT = """
    wgmma.fence.sync.aligned;
    // begin inline asm
    wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, %rd1, %p1, 1, 1, 0;
    // end inline asm
    wgmma.commit_group.sync.aligned;"""
WAIT = "wgmma.wait_group.sync.aligned 0;"
USE = "add.f32 %r9, %r2, %r2;"
COPY = "@%p2 cp.async.ca.shared.global [ %r10 + 0 ], [ %rd2 + 0 ], 0x8, %r11;"
BARRIER = "bar.sync \t0;"
LOOP = "$L__BB0_1: // a loop"
AGAIN = "@%p3 bra \t$L__BB0_1;"
SKIP, SKIPPED = "@%p3 bra $L__BB0_2;", "$L__BB0_2:"
END = "ret;"


def program(threads, *lines):
    return "\n\t".join([".visible .entry kernel(.param .u64 p)", f".reqntid {threads}", "{", ".reg .b32 %r<12>;", *lines, "}"])


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([PRODUCT, WAIT, USE, END], ""),
        ([PRODUCT, USE, WAIT, END], "an accumulator is used before the wait: add.f32"),
        ([PRODUCT, "mov.b32 %r4, %r9;", WAIT, END], "an accumulator is used before the wait: mov.b32"),
        ([PRODUCT, "add.f32 %r9, %r5, %r6;", WAIT, END], ""),
        ([PRODUCT, PRODUCT, WAIT, END], ""),
        ([PRODUCT, END], "an end is reached before the wait"),
        ([PRODUCT, SKIP, WAIT, SKIPPED, USE, WAIT, END], "an accumulator is used before the wait"),
        ([PRODUCT, SKIP, USE, SKIPPED, WAIT, END], "an accumulator is used before the wait"),
        ([LOOP, "add.f32 %r9, %r2, %r2;", PRODUCT, AGAIN, WAIT, END], "an accumulator is used before the wait"),
        ([LOOP, WAIT, USE, PRODUCT, AGAIN, WAIT, END], ""),
        ([PRODUCT, "wgmma.wait_group.sync.aligned 1;", WAIT, END], "a wait for less than all products"),
        (["setp.ne.s32 %p4, 0, 0;", "@%p4 ret;", PRODUCT, WAIT, END], ""),
    ],
    ids=range(12),
)
def test_accumulators_wait(lines, wrong):
    found = faults(program(128, *lines))
    assert len(found) == bool(wrong), found
    assert not wrong or found[0].startswith(wrong)


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([PRODUCT, WAIT, COPY, END], False),
        ([PRODUCT, BARRIER, WAIT, COPY, END], True),
        ([PRODUCT, BARRIER, WAIT, BARRIER, COPY, END], False),
        ([BARRIER, PRODUCT, WAIT, COPY, END], False),
        ([PRODUCT, BARRIER, WAIT, SKIP, BARRIER, SKIPPED, COPY, END], True),
        ([LOOP, WAIT, COPY, PRODUCT, BARRIER, AGAIN, WAIT, END], True),
        ([LOOP, WAIT, BARRIER, COPY, PRODUCT, BARRIER, AGAIN, WAIT, END], False),
    ],
    ids=range(7),
)
def test_other_warps_are_waited_for(lines, wrong):
    """In programs of eight warps; four warps wait for their own products, which are all."""
    assert [line.split(":")[0] for line in faults(program(256, *lines))] == ["copied to where other warps' products may read"] * wrong
    assert faults(program(128, *lines)) == []


def test_products_are_counted():
    assert products(program(128, PRODUCT, PRODUCT, WAIT)) == 2
    assert products(program(128, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r2};")) == 0
    assert faults("no program") == []
