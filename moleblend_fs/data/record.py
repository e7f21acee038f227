"""Compact bytes of one molecule: the value that the LMDB store holds.

A record is a header followed by sections without padding, deflated (zlib level 1):

    labels f8[L] | coordinates f4[C, n, 3] | bonds u2[m, 2] | bond classes u1[m]
    | atom features u1[n, 9] | degree u1[n] | spd u1[n, n] | path bonds u1[n, n, 5] | SMILES utf-8

Records that are not stored are not packed (zlib level 0), unless they are large.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from moleblend_fs.data.graph import MAX_HOPS, MolecularGraph
from moleblend_fs.errors import UserError

HEADER = np.dtype(
    [
        ("molecule_id", "<i8"),
        ("num_atoms", "<u2"),
        ("num_bonds", "<u2"),
        ("num_labels", "<u2"),
        ("num_conformers", "<u2"),
        ("smiles_bytes", "<u4"),
    ]
)
ONE_HEADER = struct.Struct("<qHHHHI")
"""The same for a single record, for which numpy takes ten times as long."""
LARGE = 1 << 14
"""Bytes from which on records are packed in any case: the memory holds thousands of them."""
MAX_ATOMS = 65_535
SECTIONS = ("labels", "coordinates", "bonds", "bond_classes", "atom_features", "degree", "spd", "path_bonds", "smiles")


class StoredRecord(bytes):
    """A record that knows where it lies, for messages about its damage, and which molecule of the store it is.

    Attributes:
        first_id: what is added to its id, where several stores are mixed.
        columns: among how many labels, and at which places, its own are then; None where they are all.
    """

    where: str
    molecule: int
    first_id: int = 0
    columns: tuple[np.ndarray, int] | None = None

    @classmethod
    def at(cls, where: str, content: bytes, molecule: int = -1) -> "StoredRecord":
        record = cls(content)
        record.where, record.molecule = where, molecule
        return record


def inflate(record: bytes) -> bytes:
    """A record unpacked; UserError if its bytes are not those that were written."""
    try:
        raw = zlib.decompress(record)
    except zlib.error as error:
        raise damaged(record, str(error)) from error
    if len(raw) < HEADER.itemsize:
        raise damaged(record, f"{len(raw)} bytes")
    return raw


def damaged(record: bytes, reason: str) -> UserError:
    """The error for a record that is not as it was written."""
    where = getattr(record, "where", "a record")
    return UserError(f"{where}: damaged ({reason}); copy the store again, or run `moleblend preprocess` again")


def section_bounds(headers: np.ndarray) -> np.ndarray:
    """Byte offsets of the sections of records, (B,) headers -> (B, 10): where each begins, and the record's end."""
    n = headers["num_atoms"].astype(np.int64)
    m = headers["num_bonds"].astype(np.int64)
    lengths = [
        8 * headers["num_labels"].astype(np.int64),
        12 * headers["num_conformers"].astype(np.int64) * n,
        4 * m,
        m,
        9 * n,
        n,
        n * n,
        n * n * MAX_HOPS,
        headers["smiles_bytes"].astype(np.int64),
    ]
    starts = np.full((len(headers), 1), HEADER.itemsize, dtype=np.int64)
    return np.concatenate([starts, HEADER.itemsize + np.cumsum(np.stack(lengths, axis=1), axis=1)], axis=1)


def encode(graph: MolecularGraph, molecule_id: int, *, stored: bool = True) -> bytes:
    """Pack a molecule into bytes. `molecule_id` seeds its random draws and must be unique in a store.

    Args:
        stored: whether the record goes into a store; others are read once, and packing them takes longer than what it saves.
    """
    smiles = graph.smiles.encode()
    coordinates = graph.coordinates
    conformers = 0 if coordinates is None else len(coordinates)
    parts = [
        ONE_HEADER.pack(molecule_id, graph.num_atoms, len(graph.bonds), len(graph.labels), conformers, len(smiles)),
        graph.labels.astype("<f8", copy=False).tobytes(),
        b"" if coordinates is None else coordinates.astype("<f4", copy=False).tobytes(),
        graph.bonds.astype("<u2", copy=False).tobytes(),
        graph.bond_classes.astype(np.uint8, copy=False).tobytes(),
        graph.atom_features.astype(np.uint8, copy=False).tobytes(),
        graph.degree.tobytes(),
        graph.spd.astype(np.uint8, copy=False).tobytes(),
        graph.path_bonds.astype(np.uint8, copy=False).tobytes(),
        smiles,
    ]
    raw = b"".join(parts)
    return zlib.compress(raw, 1 if stored or len(raw) >= LARGE else 0)


def smiles_in(record: bytes) -> str:
    """The SMILES of one record, without reading the rest; UserError if it is damaged."""
    raw = inflate(record)
    _, n, bonds, labels, conformers, length = ONE_HEADER.unpack_from(raw)
    end = ONE_HEADER.size + 8 * labels + 12 * conformers * n + 5 * bonds + 10 * n + (1 + MAX_HOPS) * n * n + length
    if end != len(raw):
        raise damaged(record, f"{len(raw)} bytes instead of {end}")
    try:
        return raw[end - length :].decode()
    except UnicodeDecodeError as error:
        raise damaged(record, str(error)) from error


def decode(record: bytes) -> tuple[int, MolecularGraph]:
    """The (molecule_id, graph) of one record; for looking at molecules. Batches use `collate.collate`."""
    raw = inflate(record)
    header = np.frombuffer(raw, HEADER, count=1)
    bounds = section_bounds(header)[0].tolist()
    if bounds[-1] != len(raw):
        raise damaged(record, f"{len(raw)} bytes instead of {bounds[-1]}")
    parts = {name: raw[a:b] for name, a, b in zip(SECTIONS, bounds, bounds[1:], strict=False)}
    n, conformers = int(header["num_atoms"][0]), int(header["num_conformers"][0])
    graph = MolecularGraph(
        atom_features=np.frombuffer(parts["atom_features"], np.uint8).reshape(n, 9),
        bonds=np.frombuffer(parts["bonds"], "<u2").reshape(-1, 2),
        bond_classes=np.frombuffer(parts["bond_classes"], np.uint8),
        spd=np.frombuffer(parts["spd"], np.uint8).reshape(n, n),
        path_bonds=np.frombuffer(parts["path_bonds"], np.uint8).reshape(n, n, MAX_HOPS),
        coordinates=np.frombuffer(parts["coordinates"], "<f4").reshape(conformers, n, 3) if conformers else None,
        labels=np.frombuffer(parts["labels"], "<f8"),
        smiles=parts["smiles"].decode(),
    )
    return int(header["molecule_id"][0]), graph


class Summary(NamedTuple):
    """What stands at the beginning of a record: numbers of atoms and conformers, and the labels (L,) float64."""

    atoms: int
    conformers: int
    labels: np.ndarray


def summary(record: bytes) -> Summary:
    """The beginning of one record, without unpacking the rest."""
    raw = inflate(record)
    header = np.frombuffer(raw, HEADER, count=1)[0]
    if len(raw) < HEADER.itemsize + 8 * int(header["num_labels"]):
        raise damaged(record, f"{len(raw)} bytes")
    labels = np.frombuffer(raw, "<f8", count=int(header["num_labels"]), offset=HEADER.itemsize)
    return Summary(int(header["num_atoms"]), int(header["num_conformers"]), labels)
