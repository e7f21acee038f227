"""Molecules for tests: real ones, awkward ones, and batches of them."""

from collections.abc import Sequence

import numpy as np
import torch
from rdkit import Chem

from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.graph import MolecularGraph
from moleblend_fs.data.record import encode
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD

ORDINARY = (
    "Oc1ccc2ccccc2c1C#N",
    "CC(C)CC1=CC=C(C=C1)[C@@H](C)C(=O)O",
    "F/C=C/Cl",
    "C1CC1",
    "CCO",
    "c1ccc2c(c1)[nH]c1ccccc12",
    "CC(=O)Nc1ccc(O)cc1",
)
SINGLE_ATOM, TWO_ATOMS = "C", "CO"
SALT = "CC(=O)[O-].[Na+]"
LONG_CHAIN = "C" * 26
DATIVE = "[NH3]->[Cu]<-[NH3]"
OVER_200_ATOMS = "C" * 120 + "(C(=O)O)" + "N" + "CCOC" * 22 + "c1ccccc1"
AWKWARD = (SINGLE_ATOM, SALT, LONG_CHAIN, DATIVE, TWO_ATOMS)


def graph(smiles: str, seed: int = 0, *, coordinates: bool = True, labels: Sequence[float] = ()) -> MolecularGraph:
    """A real molecule; its coordinates are random points a few Angstrom apart, the first atom at the origin."""
    mol = Chem.MolFromSmiles(smiles)
    points = np.random.default_rng(seed).normal(scale=2.0, size=(1, mol.GetNumAtoms(), 3))
    points -= points[:, :1]
    made = graph_from_mol(mol, smiles=smiles, labels=np.array(labels, dtype=np.float64), coordinates=None)
    assert isinstance(made, MolecularGraph)
    # Set here: no bond of theirs is as long as a bond can be, which the check of sources' structures would not let pass.
    made.coordinates = points.astype(np.float32) if coordinates else None
    return made


def batch_of(graphs: Sequence[MolecularGraph], ids: Sequence[int] | None = None) -> MoleculeBatch:
    """Graphs as a packed batch; molecule ids count from 0 unless given."""
    return collate([encode(g, i) for g, i in zip(graphs, range(len(graphs)) if ids is None else ids, strict=True)])


def mixed_batch(smiles: Sequence[str] = (*ORDINARY, *AWKWARD), without_3d: Sequence[int] = (1, 4)) -> MoleculeBatch:
    """Ordinary and awkward molecules; some have no coordinates."""
    return batch_of([graph(s, seed, coordinates=seed not in without_3d) for seed, s in enumerate(smiles)])


def random_relations(batch: MoleculeBatch, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Any of the eight sums of relations for each pair, and 3D or not for each atom, among what the molecules have."""
    draw = torch.Generator().manual_seed(seed)
    sizes = batch.num_atoms
    relations = torch.randint(0, 8, (int((sizes**2).sum()),), generator=draw, dtype=torch.uint8)
    allowed = torch.where(batch.has_coordinates, SHOW_SPD | SHOW_EDGE | SHOW_DISTANCE, SHOW_SPD | SHOW_EDGE).to(torch.uint8)
    distances = torch.rand(int(sizes.sum()), generator=draw) < 0.5
    return relations & allowed.repeat_interleave(sizes**2), distances & batch.has_coordinates.repeat_interleave(sizes)
