"""AttrMask: how many atoms are hidden, what they cost a model that knows nothing, and what of them and their bonds is shown."""

import dataclasses
import math

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.objectives.attr_mask import AttrMask, AttrMaskOptions, bonds_at
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of

CASE = Case(variants={"bonds": {"attr_mask_bonds": True}}, reached={"": 0.05, "bonds": 0.1}, updates=150, rate=1e-2)
BATCH = batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY)])
LAYOUT = Layout(BATCH.num_atoms, "cpu")


def masked(epoch=1, batch=BATCH, **options):
    return AttrMask(AttrMaskOptions(**options)).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=epoch)


@pytest.mark.parametrize(("atoms", "hidden"), [(5, 1), (9, 2), (14, 3), (20, 4), (30, 5), (1, 1)])
def test_count_of_hidden_atoms(atoms, hidden):
    ready = masked(batch=batch_of([graph("C" * atoms, 0)]))
    assert len(ready.parts.atoms) == int(ready.parts.shown.hidden.sum()) == hidden == int(ready.counts)


def test_every_atom_is_hidden_alike():
    """Of 9 atoms two, each with probability 2/9: within five standard deviations of a binomial count."""
    batch = batch_of([graph("C" * 9, i) for i in range(2000)])
    often = masked(batch=batch).parts.shown.hidden.view(2000, 9).sum(dim=0)
    assert ((often - 2000 * 2 / 9).abs() < 5 * (2000 * 2 / 9 * 7 / 9) ** 0.5).all()
    assert not torch.equal(masked(1).parts.shown.hidden, masked(2).parts.shown.hidden)


def test_a_model_that_knows_nothing():
    objective = AttrMask(AttrMaskOptions(attr_mask_bonds=True))
    model = model_of(objective)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    assert mean_losses(objective, model, BATCH) == pytest.approx({"hidden_element": math.log(119), "hidden_bond": math.log(4)})
    assert (math.log(119), math.log(4)) == pytest.approx((4.779123, 1.386294), abs=1e-6)


def test_bonds_at_hidden_atoms():
    """Acetic acid's C-C, C=O and C-O, each once; nothing of a dative bond, which has no class."""
    batch = batch_of([graph("CC(=O)O", 0), graph("c1ccccc1", 1), graph("[NH3]->[Cu]<-[NH3]", 2)])
    layout = Layout(batch.num_atoms, "cpu")
    at = torch.zeros(13, dtype=torch.bool)
    at[[1, 4, 11]] = True
    places, types = bonds_at(batch, layout, at)
    ends = torch.stack([layout.pair_row[places], layout.pair_column[places]], dim=1).tolist()
    assert dict(zip(map(tuple, ends), types.tolist(), strict=True)) == {(0, 1): 0, (1, 2): 1, (1, 3): 0, (4, 5): 3, (4, 9): 3}


def test_hidden_bonds_have_no_path():
    """Other bonds at the hidden atoms, in every path through them: the same tokens, bit for bit; with bonds shown they are seen."""
    for bonds in (True, False):
        objective = AttrMask(AttrMaskOptions(attr_mask_bonds=bonds))
        model = model_of(objective).eval()
        ready = objective.prepare(BATCH, LAYOUT, seed=1, epoch=1)
        hidden, path = ready.parts.shown.hidden, BATCH.path_bonds.clone()
        for pair in range(LAYOUT.num_pairs):
            i, j = int(LAYOUT.pair_row[pair]), int(LAYOUT.pair_column[pair])
            first, n = int(LAYOUT.cu_atoms[LAYOUT.pair_molecule[pair]]), int(LAYOUT.sizes[LAYOUT.pair_molecule[pair]])
            start = int(LAYOUT.cu_pairs[LAYOUT.pair_molecule[pair]])
            spd = BATCH.spd[start : start + n * n].view(n, n).long()
            a, b = i - first, j - first
            if any(hidden[first + k] and spd[a, k] + spd[k, b] == spd[a, b] for k in range(n)) and a != b:
                path[pair] = (path[pair] + 12) % 61
        assert not torch.equal(path, BATCH.path_bonds)
        with torch.no_grad():
            tokens, _ = model.encode(BATCH, ready.parts.shown, LAYOUT)
            others, _ = model.encode(dataclasses.replace(BATCH, path_bonds=path), ready.parts.shown, LAYOUT)
        assert torch.equal(tokens, others) == bonds


def test_rates_that_cannot_be_are_told():
    with pytest.raises(UserError, match="--attr-mask-rate must lie between 0 and 1, got 1"):
        AttrMaskOptions(attr_mask_rate=1.0)
