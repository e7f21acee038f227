"""Whether a store is what its manifest says: every record, every index array, every split, the list of failures, every sidecar."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from moleblend_fs.data.graph import NUM_BOND_CLASSES
from moleblend_fs.data.record import decode
from moleblend_fs.data.sidecar import FOLDER, Sidecar
from moleblend_fs.data.store import RECORDS, Store
from moleblend_fs.errors import UserError
from moleblend_fs.wording import counted

NAMED = 5
"""Damaged molecules that are named; of more, the count is given."""


def problems(store: Store) -> Iterator[str]:
    """A sentence for each thing that is not as it should be; none for a whole store."""
    for check in (_records, _splits, _joined, _failures, _sidecars):
        yield from _told(check, store)


def _told(check: Callable[[Store], Iterator[str]], store: Store) -> Iterator[str]:
    try:
        yield from check(store)
    except UserError as error:
        yield str(error)


def _records(store: Store) -> Iterator[str]:
    """Reads each record once, in order."""
    digest, damaged, conformers, with_3d = hashlib.sha256(), list[str](), 0, 0
    for index in range(len(store)):
        record = store.record(index)
        digest.update(record)
        try:
            row, graph = decode(record)
        except UserError as error:
            damaged.append(str(error))
            continue
        coordinates = np.zeros((0, graph.num_atoms, 3)) if graph.coordinates is None else graph.coordinates
        found = len(coordinates)
        conformers, with_3d = conformers + found, with_3d + (found > 0)
        wrong = {
            "another source row than source_row.npy": row != store.source_row[index],
            "another number of atoms than num_atoms.npy": graph.num_atoms != store.num_atoms[index],
            "another number of labels than the manifest": len(graph.labels) != len(store.manifest.labels),
            "bonds between atoms that it does not have": len(graph.bonds) and graph.bonds.max() >= graph.num_atoms,
            "bonds of a class that there is not": graph.path_bonds.size and graph.path_bonds.max() >= NUM_BOND_CLASSES,
            "coordinates that are not finite": not np.isfinite(coordinates).all(),
        }
        damaged += [f"{store.path / RECORDS}, molecule {index}: {what}" for what, is_so in wrong.items() if is_so]
    yield from damaged[:NAMED]
    if len(damaged) > NAMED:
        yield f"{store.path / RECORDS}: {len(damaged)} faults in all"
    if digest.hexdigest() != store.manifest.records_sha256:
        yield f"{store.path / RECORDS}: the records' SHA-256 is {digest.hexdigest()}, the manifest says {store.manifest.records_sha256}"
    said = store.manifest.conformers, store.manifest.molecules_with_3d
    if not damaged and (conformers, with_3d) != said:
        yield (
            f"{store.path / RECORDS}: {counted(conformers, 'conformer')} of {counted(with_3d, 'molecule')}, the manifest "
            f"says {said[0]} of {said[1]}"
        )


def _splits(store: Store) -> Iterator[str]:
    """Each has the hash that the manifest says, and no molecule is in two."""
    places: dict[str, np.ndarray] = {}
    for name in store.splits:
        try:
            places[name] = store.split(name)
        except UserError as error:
            yield str(error)
    names = list(places)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if len(common := np.intersect1d(places[first], places[second])):
                yield (
                    f"{store.path}: {counted(len(common), 'molecule is', 'molecules are')} in both splits {first} and "
                    f"{second}, e.g. molecule {common[0]}"
                )
    for name, indices in places.items():
        if len(np.unique(indices)) != len(indices):
            yield f"{store.path}: split {name} has molecules twice"


def _joined(store: Store) -> Iterator[str]:
    """Rows that became part of an earlier one are those that the manifest has the hash of."""
    len(store.joined_rows)
    yield from ()


def _failures(store: Store) -> Iterator[str]:
    """As many as the manifest says, and readable."""
    for _ in store.failures():
        pass
    yield from ()


def _sidecars(store: Store) -> Iterator[str]:
    """Those that are finished are of this store and have the values that their manifests have the hash of."""
    for folder in sorted((store.path / FOLDER).glob("*")):
        if folder.is_dir() and "." not in folder.name:  # a shard, or unfinished
            try:
                Sidecar(store, folder.name).check_values()
            except UserError as error:
                yield str(error)
