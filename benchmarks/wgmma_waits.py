"""What Hopper's asynchronous products need around them, looked for in the code that Triton makes for sm_90 (PTX).

Four warps issue a product (`wgmma.mma_async`) together; it reads its operands and writes its accumulators some time later, and
`wgmma.wait_group 0` waits for what the same warps have issued. Looked for, on all ways through a program:

* accumulators that are used, and an end that is reached, before the wait;
* in programs of more than four warps, an asynchronous copy into shared memory after a wait and before the barrier behind it: other warps'
  products may still read there. Triton sets that barrier where it knows of both, but forgets that something was read where there was
  another barrier between product and wait (its issue 11047), so that only these waits are looked at. It puts a wait so far away in
  pipelined loops alone, for products of buffers that only such copies fill.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

PRODUCT = "wgmma.mma_async"
WARPS_OF_A_PRODUCT = 4
LABEL = re.compile(r"(\$L__BB\w+):")
BRANCH = re.compile(r"bra(?:\.uni)? (\$L__BB\w+)")
THREADS = re.compile(r"\.reqntid\s+(\d+)")
REGISTER = re.compile(r"%[a-z]+\d+")
ACCUMULATORS = re.compile(r"\{([^}]*)\}")
GUARD = re.compile(r"@!?%p\d+ ")
BARRIER = re.compile(r"bar\.|barrier\.")
COPY = re.compile(r"cp\.async\.(ca|cg|bulk)")


class State(NamedTuple):
    """What may be so at a point of a program.

    Attributes:
        pending: accumulators of products that are not waited for.
        passed: there was a barrier since one of these products.
        behind: there was a wait for such products, and no barrier since.
    """

    pending: frozenset[str] = frozenset()
    passed: bool = False
    behind: bool = False

    def joined(self, other: "State") -> "State":
        return State(self.pending | other.pending, self.passed or other.passed, self.behind or other.behind)


@dataclass(slots=True)
class Block:
    """Instructions that run one after another, and the blocks that may follow."""

    instructions: list[str] = field(default_factory=list)
    then: list[str] = field(default_factory=list)


def products(ptx: str) -> int:
    """How many there are in the text."""
    return ptx.count(PRODUCT)


def faults(ptx: str) -> list[str]:
    """What is wrong, a line each."""
    if not products(ptx):
        return []
    threads = THREADS.search(ptx)
    assert threads is not None, "Triton says how many threads a program has"
    alone = int(threads[1]) <= 32 * WARPS_OF_A_PRODUCT
    blocks = _blocks(ptx)
    before = {"": State()}
    waiting, found = [""], dict[str, None]()
    while waiting:
        name = waiting.pop()
        state = before[name]
        for instruction in blocks[name].instructions:
            state, fault = _after(instruction, state, alone)
            if fault:
                found[f"{fault}: {instruction}"] = None
        for follower in blocks[name].then:
            state_there = state.joined(before.get(follower, State()))
            if state_there != before.get(follower):
                before[follower] = state_there
                waiting.append(follower)
    return list(found)


def _after(instruction: str, state: State, alone: bool) -> tuple[State, str]:
    """The state after an instruction, and what is wrong with it. `alone`: one group of warps is the whole program."""
    operation = GUARD.sub("", instruction)
    if operation.startswith(PRODUCT):
        accumulators = ACCUMULATORS.search(operation)
        assert accumulators is not None, instruction
        return state._replace(pending=state.pending.union(REGISTER.findall(accumulators[1]))), ""
    if operation.startswith("wgmma.wait_group"):
        fault = "" if operation.endswith(" 0;") else "a wait for less than all products, which is not followed here"
        return State(behind=state.behind or (state.passed and not alone)), fault
    if operation.startswith("wgmma."):
        return state, ""
    if BARRIER.match(operation):
        return State(state.pending, passed=bool(state.pending)), ""
    if state.pending.intersection(REGISTER.findall(operation)):
        return state, "an accumulator is used before the wait"
    if operation.startswith("ret") and state.pending:
        return state, "an end is reached before the wait"
    if COPY.match(operation) and state.behind:
        return state, "copied to where other warps' products may read"
    return state, ""


def _blocks(ptx: str) -> dict[str, Block]:
    """The blocks of the one function, by their labels; the first is called ""."""
    blocks, current = {"": Block()}, ""
    for line in _instructions(ptx):
        label = LABEL.match(line)
        branch = BRANCH.search(line)
        if label:
            blocks[current].then.append(label[1])
            current = label[1]
        else:
            blocks[current].instructions.append(line)
        if branch:
            blocks[current].then.append(branch[1])
        if branch or line.startswith("ret"):
            after = f"after {len(blocks)}"
            if line.startswith("@"):
                blocks[current].then.append(after)
            current = after
        blocks.setdefault(current, Block())
    return blocks


def _instructions(ptx: str) -> Iterator[str]:
    """Labels and instructions of the function's body, without comments."""
    for line in ptx[ptx.index(".entry") :].splitlines():
        bare = line.partition("//")[0].strip().replace("\t", " ")
        if bare and bare not in "{}" and bare[0] != ".":
            yield re.sub(" +", " ", bare)
