"""Files of torch.save that are damaged, or made to do harm, are a message; nothing of them is run and no memory of others is read."""

import argparse
import collections
import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from moleblend_fs.data.untrusted_torch import read_torch
from moleblend_fs.errors import UserError
from tests.sources.test_untrusted_records import Call, attacks, mutated

FUZZED_PICKLES, FUZZED_FILES = 600, 400
CONTENT = {
    "model": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).state_dict(),
    "parameter": torch.nn.Parameter(torch.arange(6.0).view(2, 3).t()),
    "several": (torch.zeros(0, 3), torch.tensor(True), torch.arange(4, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)),
    "args": argparse.Namespace(lr=[0.1], name="x"),
    "best": np.float64(0.5),
    "split": np.arange(5),
    "nested": {"a": [1, None, (2.5, "b")], "size": torch.Size([2, 3])},
}


def saved(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def with_pickle(path, data, source, change=None):
    """A file of torch's whose pickle is exchanged, with right checksums."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = data if name.endswith("/data.pkl") else old.read(name)
            new.writestr(name, change(name, content) if change else content)
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:You are using")
@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saved_is_read(tmp_path, legacy):
    path = saved(tmp_path / "a.pt", CONTENT, legacy)
    read, expected = read_torch(path), torch.load(path, weights_only=False)
    assert all(torch.equal(read["model"][name], value) for name, value in expected["model"].items())
    assert read["model"]._metadata == expected["model"]._metadata
    assert torch.equal(read["parameter"], expected["parameter"])
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(read["several"], expected["several"], strict=True))
    assert (read["args"], read["best"], read["nested"]) == (expected["args"], 0.5, expected["nested"])
    assert read["split"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("what", "data"), [pytest.param(what, data, id=what) for what, data in attacks() if what not in ("a persistent id", "many steps")]
)
def test_attacks_on_the_pickle(tmp_path, what, data):
    source = saved(tmp_path / "a.pt", {"x": torch.zeros(2)})
    with pytest.raises(UserError, match=r"evil\.pt: (refused|not a readable torch checkpoint)"):
        read_torch(with_pickle(tmp_path / "evil.pt", data, source))


def rebuilt(storage, *state):
    """A pickle of a tensor of a state, on the first storage of a file."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value and value[0] == "storage" else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"x": Call(torch._utils._rebuild_tensor_v2, storage, *state)})
    return stream.getvalue()


STORAGE = ("storage", torch.FloatStorage, "0", "cpu", 6)
NO_HOOKS = collections.OrderedDict()


@pytest.mark.parametrize(
    ("storage", "state"),
    [
        (STORAGE, (0, (7,), (1,))),
        (STORAGE, (1, (6,), (1,))),
        (STORAGE, (0, (2, 3), (4, 1))),
        (STORAGE, (0, (1 << 40,), (0,))),
        (STORAGE, (-1, (2,), (1,))),
        (STORAGE, (0, (2,), (-1,))),
        (("storage", torch.FloatStorage, "0", "cpu", 1 << 40), (0, (1 << 40,), (1,))),
        (("storage", torch.DoubleStorage, "0", "cpu", 6), (0, (6,), (1,))),
        (("storage", torch.FloatStorage, "../0", "cpu", 6), (0, (6,), (1,))),
    ],
)
def test_a_tensor_out_of_its_storage_is_refused(tmp_path, storage, state):
    source = saved(tmp_path / "a.pt", {"x": torch.arange(6.0)})
    whole = with_pickle(tmp_path / "whole.pt", rebuilt(STORAGE, 0, (2, 3), (3, 1), False, NO_HOOKS), source)
    assert read_torch(whole)["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UserError, match=r"evil\.pt: "):
        read_torch(with_pickle(tmp_path / "evil.pt", rebuilt(storage, *state, False, NO_HOOKS), source))


def test_one_changed_byte_of_the_weights_is_told(tmp_path, monkeypatch):
    """Which torch itself reads without a word."""
    path = saved(tmp_path / "a.pt", {"x": torch.full((1000,), 1.5)})
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.tensor(1.5).numpy().tobytes() * 2) + 2003] ^= 0x40
    path.write_bytes(raw)
    assert not torch.equal(torch.load(path, weights_only=True)["x"], torch.full((1000,), 1.5))
    with pytest.raises(UserError, match=r"a\.pt: .*damaged \(BadZipFile: Bad CRC-32 for file 'a/data/0'\); copy it again"):
        read_torch(path)
    monkeypatch.setenv("MOLEBLEND_VERIFY", "0")
    assert len(read_torch(path)["x"]) == 1000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mutated_pickles_and_files(tmp_path):
    """Each is read or a message."""
    path, counts = tmp_path / "mutated.pt", collections.Counter()
    whole = saved(tmp_path / "whole.pt", CONTENT)
    legacy = saved(tmp_path / "legacy.pt", CONTENT, legacy=True).read_bytes()
    with zipfile.ZipFile(whole) as archive:
        data = archive.read("whole/data.pkl")
    other = [attack for _, attack in attacks() if len(attack) < 1000]
    for seed in range(FUZZED_PICKLES + FUZZED_FILES):
        rng = np.random.default_rng(seed)
        if seed < FUZZED_PICKLES:
            kind = "pickle"
            with_pickle(path, mutated(data, other[seed % len(other)], rng), whole)
        else:
            kind = "file"
            content = bytearray(legacy if seed % 4 == 0 else whole.read_bytes())
            for _ in range(rng.integers(1, 4)):
                content[int(rng.integers(len(content)))] = int(rng.integers(256))
            path.write_bytes(content[: int(rng.integers(len(content)))] if seed % 5 == 0 else content)
        try:
            read_torch(path)
        except UserError as error:
            counts[f"{kind} refused"] += "mutated.pt: " in str(error)
        else:
            counts[f"{kind} read"] += 1
    print(f"\n{FUZZED_PICKLES} mutated pickles of torch's, {FUZZED_FILES} mutated files: {dict(counts)}")
    assert sum(counts.values()) == FUZZED_PICKLES + FUZZED_FILES
    assert counts["pickle refused"] > FUZZED_PICKLES // 2
    assert counts["file refused"] > FUZZED_FILES // 2


def test_devices_are_read(tmp_path):
    assert read_torch(saved(tmp_path / "a.pt", {"device": torch.device("cuda", 1)})) == {"device": torch.device("cuda", 1)}


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"(ios\nsystem\n.", "os.system"),
        (pickle.dumps(Call(argparse.Namespace, state={1: 2})), "options of a strange kind"),
        (pickle.dumps(frozenset({1}), protocol=2), "frozenset"),  # plain to us, but not to torch
    ],
)
def test_what_is_refused_is_named(tmp_path, content, asked):
    source = saved(tmp_path / "a.pt", {"x": torch.zeros(2)})
    with pytest.raises(UserError, match=rf"evil\.pt: refused, .*\(it asks for {re.escape(asked)}\)"):
        read_torch(with_pickle(tmp_path / "evil.pt", content, source))
