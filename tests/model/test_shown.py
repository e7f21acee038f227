"""What is shown of a molecule in finetuning."""

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.model.shown import show_all, show_random_modality
from moleblend_fs.objectives.common.hashed_draws import draw_modality
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from tests.model.molecules import batch_of, graph

TWO_D = SHOW_SPD | SHOW_EDGE
BATCH = batch_of([graph("CCO", 0), graph("CC", 1, coordinates=False), graph("C", 2)])


@pytest.mark.parametrize(
    ("modality", "with_3d", "without"), [("2d", TWO_D, TWO_D), ("2d+3d", TWO_D | SHOW_DISTANCE, TWO_D), ("3d", SHOW_DISTANCE, 0)]
)
def test_relations_and_atoms(modality, with_3d, without):
    shown = show_all(BATCH, Layout(BATCH.num_atoms, "cpu"), modality)
    assert shown.relations.tolist() == [with_3d] * 9 + [without] * 4 + [with_3d]
    assert shown.degree.tolist() == [modality != "3d"] * 6
    assert shown.distances.tolist() == [modality != "2d"] * 3 + [False] * 2 + [modality != "2d"]


def test_unknown_modality_is_told():
    with pytest.raises(UserError, match=r"one of 2d, 3d, 2d\+3d, 2d\+predicted3d, got '4d'"):
        show_all(BATCH, Layout(BATCH.num_atoms, "cpu"), "4d")


def test_random_modality_has_the_shares_of_transformer_m():
    """2D+3D, 2D, 3D with 0.2, 0.2, 0.6; without coordinates always 2D."""
    batch = batch_of([graph("C", i, coordinates=i % 2 == 0) for i in range(4000)])
    layout = Layout(batch.num_atoms, "cpu")
    shown = show_random_modality(batch, layout, draw_modality(batch, seed=1, epoch=1))
    seen = shown.relations[batch.has_coordinates]
    for bits, share in ((TWO_D | SHOW_DISTANCE, 0.2), (TWO_D, 0.2), (SHOW_DISTANCE, 0.6)):
        # Five standard deviations of a binomial count.
        assert abs(int((seen == bits).sum()) - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5
    assert (shown.relations[~batch.has_coordinates] == TWO_D).all()
    assert torch.equal(shown.degree, (shown.relations & SHOW_SPD) > 0)
    assert torch.equal(shown.distances, (shown.relations & SHOW_DISTANCE) > 0)
