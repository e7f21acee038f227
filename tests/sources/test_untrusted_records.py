"""Pickles of strangers: what is plain is read as pickle reads it, and the rest can do no harm."""

import collections
import os
import pickle
import pickletools
import resource
import struct

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.data.pickle_parts import Limits
from moleblend_fs.errors import UserError
from moleblend_fs.sources.untrusted_records import loads

FUZZED = 2000
PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, np.generic)
RECORD = {
    "smi": "CCO",
    "target": np.array([0.5, np.nan]),
    "atoms": ["C", "C", "O"],
    "coordinates": [np.arange(9, dtype=np.float32).reshape(3, 3) + i for i in range(3)],
    "more": (1, -2, 3.5, None, True, b"x", {"a", "b"}, 2**70, np.float64(2), np.str_("y"), np.array(["x", "yy"]), "\u00e4"),
}


class Call:
    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def is_plain(value) -> bool:
    """Whether a value is made of containers, numbers, strings and plain arrays only."""
    if isinstance(value, dict):
        return all(is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain, value))
    return value.dtype.kind in "biufSU" and value.dtype.fields is None if isinstance(value, np.ndarray) else isinstance(value, PLAIN)


def kinds(value):
    """The types of a value's parts."""
    if isinstance(value, dict):
        return {name: kinds(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [kinds(part) for part in value]
    return (type(value), value.dtype.kind, value.shape) if isinstance(value, np.ndarray) else type(value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        RECORD,
        np.array(["\u00e4\U0001f9ea", ""]).astype(">U2"),
        np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        [np.array([[1, 0]], dtype=bool), np.zeros((0, 3)), np.float16(1), np.array(b"abc"), np.array(2.5)],
        {"s": frozenset({1}), "c": 2j, "b": bytearray(b"abc"), "z": [np.str_(""), np.bytes_(b"")]},
    ],
)
def test_plain_data_are_read_as_pickle_reads_them(value, protocol):
    data = pickle.dumps(value, protocol=protocol)
    np.testing.assert_equal(loads(data, "here"), pickle.loads(data))
    assert kinds(loads(data, "here")) == kinds(pickle.loads(data))


def test_a_shared_list_stays_shared():
    part = [1, 2]
    first, second = loads(pickle.dumps([part, part]), "here")
    assert first is second
    assert first == part


def test_arrays_of_python_2_whose_bytes_are_a_string():
    data = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
    data += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    data += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\xff\x07tb."
    assert loads(data, "here").tolist() == [255, 7]


def test_an_rdkit_molecule_is_passed_over():
    """Uni-Mol's own script leaves one in each record."""
    for protocol in (2, 4):
        found = loads(pickle.dumps({"mol": Chem.MolFromSmiles("CCO"), "smi": "CCO"}, protocol=protocol), "here")
        assert found["smi"] == "CCO"
        assert not isinstance(found["mol"], Chem.Mol)


def attacks():
    """(what, pickle): what reads memory that is not its own, changes our functions, crashes, hangs, or takes all memory."""
    fields = (3, "<", None, ("x",), {"x": (np.dtype("O"), 10_000)}, 8, 1, 0)
    yield "a dtype with fields out of its buffer", pickle.dumps(Call(np.dtype, "V8", False, True, state=fields))
    yield "a number's dtype with such fields", pickle.dumps(Call(np.dtype, "f8", False, True, state=fields))
    yield "a dtype of objects", pickle.dumps(np.array([None], dtype=object))
    yield (
        "a dtype whose size is not its name's",
        pickle.dumps(Call(np.dtype, "U1", False, True, state=(3, "<", None, None, None, 1 << 30, 4, 8))),
    )
    yield "an array larger than its bytes", pickle.dumps(np.zeros(2)).replace(b"K\x02\x85", b"K\x7f\x85")
    yield "a change of a function", b"\x80\x04\x8c\x07_codecs\x8c\x06encode\x93}\x8c\x08__code__K\x01sb."
    yield "a change of a dict", b"\x80\x04}}\x8c\x05itemsK\x01sb."
    yield "eight gigabytes", pickle.dumps(Call(bytearray, 8 << 30))
    yield "eight gigabytes of a set", pickle.dumps(Call(set, range(8 << 30)))
    yield "deep tuples", b"\x80\x02)" + b"\x85" * 200_000 + b"."
    yield "deep tuples as a key", b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s."
    yield "deep lists", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    laughs = b"\x80\x02]K\x01a" + b"".join(b"q" + bytes([i]) + b"]h" + bytes([i]) + b"ah" + bytes([i]) + b"a" for i in range(40))
    yield "a billion laughs", laughs + b"."
    yield "a hash bomb", laughs.replace(b"]", b")").replace(b"a", b"") + b"}h\x00K\x01s0."
    yield "a list in itself", b"\x80\x02]q\x00h\x00a."
    yield "a list in itself by a detour", b"\x80\x02]q\x00]q\x01h\x00ah\x00h\x01a."
    dtype = b"cnumpy\ndtype\nU\x02u1\x89\x88\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    large = b"\x80\x05B\x00\x00\x40\x00" + bytes(1 << 22) + b"q\x00" + dtype + b"q\x01cnumpy.core.numeric\n_frombuffer\nq\x02"
    again = b"h\x02(h\x00h\x01J\x00\x00\x40\x00\x85U\x01CtR"
    yield "one string made into a thousand arrays", large + again * 1000 + b"0" * 1002 + b"."
    yield "a memo entry far out", b"\x80\x02K\x01r\xff\xff\xff\xff" + b"r\xfe\xff\xff\xff" + b"j\xf0\xff\xff\xff."
    yield "colliding keys", pickle.dumps(dict.fromkeys(i * (2**61 - 1) for i in range(1, 5000)))
    yield "an endless integer", b"\x80\x02\x8b" + struct.pack("<i", 1 << 24) + b"\x7f" * (1 << 24) + b"."
    yield "many steps", b"\x80\x02" + b"N0" * 2_000_000 + b"N."
    yield "a string that cannot be written", b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80."
    yield "an array of such strings", pickle.dumps(np.array(["\ud800"]))
    yield "an array of no characters at all", pickle.dumps(np.array(["abcd"])).replace(b"a\0\0\0b\0\0\0", b"a\0\0\0b\0\0\x7f")
    yield "a function as data", b"\x80\x02]c_codecs\nencode\na."
    yield "nothing finished", b"\x80\x02cnumpy\nndarray\n."
    for function in (os.system, open, eval, getattr, __import__, np.load, collections.Counter, np.random.default_rng):
        yield f"a call of {function.__name__}", pickle.dumps(Call(function, "x"))
    yield "an instance", b"(ios\nsystem\n."
    yield "an extension's code", b"\x80\x02\x82\x01."
    yield "a persistent id", b"\x80\x02K\x01Q."


@pytest.mark.parametrize(("what", "data"), [pytest.param(what, data, id=what) for what, data in attacks()])
def test_attacks(what, data):
    """Each is an error, soon, and without the memory that it asks for."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"refused|damaged"):
        loads(data, "here")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "a gigabyte"


def test_a_call_is_refused_by_its_name():
    with pytest.raises(UserError, match=r"a\.lmdb, record 3: refused, its pickle asks for posix\.system; only plain"):
        loads(pickle.dumps(Call(os.system, "x")), "a.lmdb, record 3")


def test_limits():
    assert loads(pickle.dumps([0] * 100), "here", Limits(values=200)) == [0] * 100
    for limits in (Limits(values=50), Limits(opcodes=50), Limits(size=50), Limits(depth=0)):
        with pytest.raises(ValueError, match="damaged"):
            loads(pickle.dumps([0] * 100), "here", limits)


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut, doubled, exchanged with another pickle's, or opcodes put in."""
    codes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    result = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(result) + 1)), int(rng.integers(1, 12))
        kind = rng.integers(6)
        if kind == 0 and at < len(result):
            result[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del result[at : at + length]
        elif kind == 2:
            result[at:at] = result[at : at + 3 * length]
        elif kind == 3:
            result[at : at + length] = b"".join(codes[int(rng.integers(len(codes)))] for _ in range(length))
        elif kind == 4:
            start = int(rng.integers(len(other)))
            result[at : at + length] = other[start : start + 5 * length]
        else:
            result[at : at + length] = rng.bytes(length)
    return bytes(result)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_mutated_pickles_are_plain_data_or_an_error():
    """Each gives plain data or an error; none crashes, hangs, or becomes anything else."""
    whole = [pickle.dumps(RECORD, protocol=protocol) for protocol in (0, 2, 4, 5)]
    whole += [data for _, data in attacks() if len(data) < 1000]
    counts = collections.Counter()
    for seed in range(FUZZED):
        rng = np.random.default_rng(seed)
        data, other = (whole[int(rng.integers(4 if rng.random() < 0.7 else len(whole)))] for _ in range(2))
        try:
            value = loads(mutated(data, other, rng), "here")
        except UserError:
            counts["refused"] += 1
        except ValueError:
            counts["damaged"] += 1
        else:
            counts["plain"] += 1
            assert is_plain(value), f"seed {seed}"
    print(f"\n{FUZZED} mutated pickles: {dict(counts)}")
    assert sum(counts.values()) == FUZZED
    assert min(counts[kind] for kind in ("refused", "damaged", "plain")) > FUZZED // 100
