"""Connected parts of molecules, drawn at random."""

import numpy as np
import torch

from moleblend_fs.data.graph import UNREACHABLE
from moleblend_fs.objectives.common.hashed_draws import GROWTH
from moleblend_fs.objectives.common.subgraphs import draw_connected
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import batch_of, graph

SMILES = ("c1ccc2c(c1)[nH]c1ccccc12", "CC(C)(C)c1ccccc1", "CCCCCCCC", "C", "[Na+].CC(=O)[O-]", "CCO")


def grown(batch, count, **draw):
    """Chosen atoms of each molecule, by their numbers in it."""
    layout = Layout(batch.num_atoms, "cpu")
    chosen = draw_connected(batch, layout, torch.as_tensor(count), stream=GROWTH, seed=draw.get("seed", 1), epoch=draw.get("epoch", 1))
    return [np.flatnonzero(part) for part in chosen.split(batch.num_atoms.tolist())]


def hops(batch, molecule):
    """(n, n) path lengths."""
    n = int(batch.num_atoms[molecule])
    start = int((batch.num_atoms[:molecule] ** 2).sum())
    return batch.spd[start : start + n * n].view(n, n).numpy()


def test_so_many_atoms_that_hang_together():
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(SMILES)])
    count = [7, 6, 3, 2, 4, 9]
    for epoch in range(20):
        for molecule, atoms in enumerate(grown(batch, count, epoch=epoch)):
            d = hops(batch, molecule)
            reached = {int(atoms[0])}
            for _ in atoms:
                reached |= {int(b) for a in reached for b in atoms if d[a, b] == 1}
            assert reached == set(atoms.tolist())
            whole = int((d[atoms[0]] != UNREACHABLE).sum())  # of its fragment
            assert len(atoms) == min(count[molecule], whole)


def test_every_start_and_every_neighbour_is_as_likely():
    """Two atoms of a chain of four: each of the three bonds, with 1/4 * (1, 1/2 ...) = 3/8, 2/8, 3/8."""
    batch = batch_of([graph("CCCC", i, coordinates=False) for i in range(600)], list(range(600)))
    seen = np.zeros(3)
    for atoms in grown(batch, [2] * 600):
        seen[atoms[0]] += 1
    expected = 600 * np.array([3, 2, 3]) / 8
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected)).all()
    assert not (np.abs(seen - 200) < 5).all()


def test_what_is_drawn_depends_on_the_molecule_alone():
    graphs = [graph("CC(C)(C)c1ccccc1", i) for i in range(6)]
    together = grown(batch_of(graphs, [3, 1, 4, 15, 9, 2]), [5] * 6)
    assert [a.tolist() for a in grown(batch_of(graphs[2:4], [4, 15]), [5, 5])] == [a.tolist() for a in together[2:4]]
    assert [a.tolist() for a in grown(batch_of(graphs, [3, 1, 4, 15, 9, 2]), [5] * 6, epoch=2)] != [a.tolist() for a in together]
    assert len({tuple(atoms) for atoms in together}) > 2
