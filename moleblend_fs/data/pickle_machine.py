"""A reader of pickles that can do no more than make plain data.

It goes through the opcodes that `pickletools` lists and keeps a stack of its own. Nothing of the pickle's choice is ever imported or
called: a name stands for an entry of a table of ours, or the pickle is refused. What is made is bounded in depth, in number of values
(written out, however often one is shared) and in work, so that no pickle hangs, fills the memory or overflows the stack.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from moleblend_fs.data.pickle_parts import Buildable, Item, Limits, Name, Refused, Special, key, shown

LONGEST_INTEGER = 128
"""Bits."""

_NONE, _TRUE, _FALSE = Item(None), Item(True), Item(False)


class Machine:
    """Reads one pickle.

    Args:
        names: (module, name) -> what stands for it.
        limits: see there.
        persistent: gives the value for a persistent id; such ids are refused where it is None.
    """

    def __init__(self, names: Mapping[tuple[str, str], Name], limits: Limits, persistent: Callable[[Any], Any] | None = None):
        self._names, self._limits, self._persistent = names, limits, persistent
        self._stack: list[Item] = []
        self._marked: list[list[Item]] = []
        self._memo: dict[int, Item] = {}
        self._handed_on = 0

    def load(self, source: bytes | IO[bytes]) -> Any:
        """The pickle's value.

        Raises:
            Refused: it asks for something else than plain data, or for too much of it.
            Exception: of nearly any kind, where it is damaged.
        """
        if isinstance(source, bytes) and len(source) > self._limits.size:
            raise ValueError(f"{len(source):,} bytes, more than {self._limits.size:,}")
        for count, (opcode, argument, position) in enumerate(pickletools.genops(source)):  # type: ignore[arg-type]
            if count >= self._limits.opcodes or (position or 0) > self._limits.size:
                raise ValueError(f"more than {self._limits.opcodes:,} steps")
            if opcode.name == "STOP":
                break
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise Refused(f"the opcode {opcode.name}")
            action(self, argument)
        item = self._stack.pop()
        if self._stack or self._marked or item.bare:
            raise ValueError("its end leaves something unfinished")
        return item.value

    # The stack

    def push(self, value: Any, parts: Iterable[Item] = ()) -> None:
        """A value, made of parts."""
        item = Item(value, bare=isinstance(value, Special))
        self._take_in(item, parts)
        self._stack.append(item)

    def _take_in(self, item: Item, parts: Iterable[Item], *, finished: bool = False) -> None:
        for part in parts:
            if part.bare and finished:
                raise ValueError("an unfinished object among data")
            item.bare |= part.bare and isinstance(item.value, tuple)
            item.weight += part.weight
            item.depth = max(item.depth, part.depth + 1)
            part.sealed = True
        if item.depth > self._limits.depth:
            raise ValueError(f"nested more than {self._limits.depth} deep")
        if item.weight > self._limits.values:
            raise ValueError(f"more than {self._limits.values:,} values")

    def _container(self, kind: type) -> Item:
        item = self._stack[-1]
        if not isinstance(item.value, kind):
            raise ValueError(f"an item for a {type(item.value).__name__}, which is no {kind.__name__}")
        return item

    def _extend(self, item: Item, parts: list[Item]) -> None:
        self._take_in(item, parts, finished=True)
        if item.sealed:
            raise ValueError("a container that changes after it was put into another")

    def _from_mark(self) -> list[Item]:
        above, self._stack = self._stack, self._marked.pop()
        return above

    def _pop(self) -> Item:
        return self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._from_mark()

    # Opcodes

    def scalar(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
            raise ValueError("an integer of more than 128 bits")
        if isinstance(value, str) and not value.isascii():
            value.encode()  # lone surrogates cannot be written anywhere
        self._stack.append(Item(value, 0, 1 + (len(value) >> 3 if isinstance(value, str | bytes | bytearray) else 0)))

    def mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._stack = self._marked.pop()

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def sequence(self, make: Callable[[list[Any]], Any], parts: list[Item]) -> None:
        if make is not tuple and any(part.bare for part in parts):
            raise ValueError("an unfinished object among data")
        self.push(make([part.value for part in parts]), parts)

    def tuple_of(self, count: int) -> None:
        parts = self._stack[len(self._stack) - count :]
        if len(parts) != count:
            raise ValueError("fewer values than a tuple needs")
        del self._stack[len(self._stack) - count :]
        self.sequence(tuple, parts)

    def append(self, parts: list[Item]) -> None:
        item = self._container(list)
        self._extend(item, parts)
        item.value.extend(part.value for part in parts)

    def add(self, parts: list[Item]) -> None:
        item = self._container(set)
        self._extend(item, parts)
        item.value.update(key(part.value) for part in parts)

    def set_items(self, parts: list[Item]) -> None:
        item = self._container(dict)
        self._extend(item, parts)
        if len(parts) % 2:
            raise ValueError("a key without a value")
        for name, part in zip(parts[::2], parts[1::2], strict=True):
            item.value[key(name.value)] = part.value

    def dictionary(self, parts: list[Item]) -> None:
        self.push({})
        self.set_items(parts)

    def name(self, module: Any, name: Any) -> None:
        found = self._names.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise Refused(f"{module}.{name}"[:200])
        self.push(found)

    def stack_name(self, _: Any) -> None:
        name, module = self._pop().value, self._pop().value
        self.name(module, name)

    def call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function.value, Name) or function.value.call is None or not isinstance(arguments.value, tuple):
            raise Refused(f"a call of {getattr(function.value, 'name', type(function.value).__name__)}")
        self._hand_on(arguments)
        self.push(function.value.call(*arguments.value), [arguments])

    def _hand_on(self, item: Item) -> None:
        """Count what functions get: each may make as much of it, and may get the same part again and again."""
        self._handed_on += item.weight
        if self._handed_on > 4 * self._limits.values:
            raise ValueError(f"more than {self._limits.values:,} values")

    def build(self, _: Any) -> None:
        state, item = self._pop(), self._stack[-1]
        if not isinstance(item.value, Special | Buildable):
            raise Refused(f"a change of a {type(item.value).__name__}'s attributes")
        if item.sealed:
            raise ValueError("an object that changes after it was put into another")
        self._hand_on(state)
        item.value = item.value.build(state.value)
        item.bare = isinstance(item.value, Special)
        self._take_in(item, [state])

    def persistent_id(self, _: Any) -> None:
        item = self._pop()
        if self._persistent is None:
            raise Refused(f"persistent id {shown(item.value)}")
        self.push(self._persistent(item.value), [item])


def refuse(name: str) -> None:
    raise Refused(name[:200])


def _constant(item: Item) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine._stack.append(item)


_ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    **{name: lambda machine, _: None for name in ("PROTO", "FRAME")},
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), Machine.scalar),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"), Machine.scalar),
    **dict.fromkeys(("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), Machine.scalar),
    "NONE": _constant(_NONE),
    "NEWTRUE": _constant(_TRUE),
    "NEWFALSE": _constant(_FALSE),
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get),
    "MEMOIZE": Machine.memoize,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": lambda machine, _: machine.sequence(tuple, machine._from_mark()),
    "LIST": lambda machine, _: machine.sequence(list, machine._from_mark()),
    "FROZENSET": lambda machine, _: machine.sequence(lambda values: frozenset(map(key, values)), machine._from_mark()),
    "DICT": lambda machine, _: machine.dictionary(machine._from_mark()),
    "APPEND": lambda machine, _: machine.append([machine._pop()]),
    "APPENDS": lambda machine, _: machine.append(machine._from_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine._from_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine._from_mark()),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "INST": lambda machine, argument: refuse(argument.replace(" ", ".")),
    "STACK_GLOBAL": Machine.stack_name,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "BUILD": Machine.build,
    "BINPERSID": Machine.persistent_id,
}
