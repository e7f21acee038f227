"""Motif trees for the objectives that learn them: of real molecules, and made-up ones that move along with their atoms."""

from collections import Counter

import numpy as np
import torch

from moleblend_fs.chem.motifs import MotifTree, motif_tree
from moleblend_fs.data.motif_lists import MOTIFS, as_list, code_of
from moleblend_fs.data.ragged_lists import padded
from moleblend_fs.data.sidecar import Entry, SidecarManifest
from tests.model.molecules import batch_of

NAMES = ("CC", "CO", "c1ccccc1", "C", "N")


def sidecar(names):
    """Manifest of a sidecar with a vocabulary of these motifs, the first the most frequent."""
    entries = tuple(Entry(name=name, code=code_of(name), count=10 * (len(names) - place)) for place, name in enumerate(names))
    about = {"molecules": 1, "records_sha256": "", "values_sha256": "", "statistics": (), "statistics_of": "", "missing": 0, "without": 0}
    return SidecarManifest(name=MOTIFS, kind="lists", columns=(), versions={}, vocabularies={MOTIFS: entries}, **about)


SIDECARS = {MOTIFS: sidecar(NAMES)}


def tree_of(graph) -> MotifTree:
    return motif_tree(graph.atom_features, graph.bonds, graph.bond_classes)


def with_trees(batch, trees):
    """The batch with the sidecar's lists; None for a molecule that has none."""
    lists = [np.zeros(0, np.int32) if tree is None else np.array(as_list(*tree), np.int32) for tree in trees]
    batch.extra[MOTIFS] = torch.from_numpy(padded(lists))
    return batch


def batch_with_trees(graphs, ids=None):
    """Real molecules with their own motifs."""
    return with_trees(batch_of(graphs, ids), [tree_of(graph) for graph in graphs])


def vocabulary_of(graphs):
    """Their motifs, most frequent first."""
    counts = Counter(name for graph in graphs for name in tree_of(graph).names)
    return [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def made_up(batch):
    """The batch with trees whose motifs are atoms of similar distance from the others, so that they do not depend on the order of atoms.

    Three atoms a motif, and one more that it shares with its parent; every second motif hangs on the one before, the others on the first.
    """
    trees, start = [], 0
    for number, n in zip(batch.molecule_id.tolist(), batch.num_atoms.tolist(), strict=True):
        places = batch.coordinates[start : start + n].double()
        # Rounded, since sums in another order differ by a last digit; equal places are in the order of their numbers.
        order = torch.argsort(torch.cdist(places, places).sum(dim=1).round(decimals=9), stable=True).tolist()
        parts = [order[i : i + 3] for i in range(0, n, 3)]
        parents = [-1 if m == 0 else (m - 1 if m % 2 else 0) for m in range(len(parts))]
        atoms = [sorted(part + ([parts[p][0]] if p >= 0 else [])) for part, p in zip(parts, parents, strict=True)]
        names = [(*NAMES, "[Xe]")[(number + m) % (len(NAMES) + 1)] for m in range(len(parts))]
        trees.append(MotifTree(atoms, parents, names))
        start += n
    return with_trees(batch, trees)
