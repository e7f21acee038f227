"""Motif trees as lists: side by side in a batch."""

import numpy as np
import torch

from moleblend_fs.chem.motifs import MotifTree
from moleblend_fs.data.motif_lists import as_list, code_of, motifs_of
from moleblend_fs.data.ragged_lists import padded


def test_motifs_of_a_batch():
    """Trees of molecules side by side, one without any, places shifted; codes of all signs."""
    trees = [MotifTree([[0, 3], [1], [2, 3]], [-1, 0, 1], ["CC", "O", "CN"]), None, MotifTree([[0]], [-1], ["c1ccccc1"])]
    lists = [np.zeros(0, np.int32) if tree is None else np.array(as_list(*tree), np.int32) for tree in trees]
    found = motifs_of(torch.from_numpy(padded(lists)))
    assert found.molecule.tolist() == [0, 0, 0, 2]
    assert found.number.tolist() == [0, 1, 2, 0]
    assert found.code.tolist() == [code_of(name) for name in ("CC", "O", "CN", "c1ccccc1")]
    assert found.parent.tolist() == [-1, 0, 1, -1]
    assert found.owner.tolist() == [0, 0, 1, 2, 2, 3]
    assert found.atom.tolist() == [0, 3, 1, 2, 3, 0]
    assert {code_of(name) > 0 for name in ("CC", "O", "CN", "c1ccccc1", "N", "C")} == {True, False}
    assert all(len(part) == 0 for part in motifs_of(torch.zeros(3, 0, dtype=torch.int32)))
