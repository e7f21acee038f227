"""Weighting and normalising, with numbers small enough to work out by hand."""

import pytest
import torch

from moleblend_fs.objectives.common.loss import weighted_loss


def test_each_term_is_divided_by_its_own_count_and_weighted_by_its_own_weight():
    """0.5 * 6 / 3 + 2 * 20 / 4 + 0.1 * 5 / 10."""
    loss = weighted_loss(torch.tensor([6.0, 20.0, 5.0]), torch.tensor([3.0, 4.0, 10.0], dtype=torch.float64), [0.5, 2.0, 0.1])
    assert loss.shape == ()
    assert loss.dtype == torch.float32, "of the sums, not of the counts"
    assert float(loss) == pytest.approx(1 + 10 + 0.05)


def test_a_term_without_a_place_gives_nothing_and_no_nan():
    sums = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    loss = weighted_loss(sums, torch.tensor([0.0, 1.0], dtype=torch.float64), [7.0, 2.0])
    assert float(loss) == 6.0
    loss.backward()
    assert sums.grad.tolist() == [7.0, 2.0]


def test_micro_batches_add_up_to_the_global_batch():
    sums, counts = torch.tensor([[1.0, 2.0], [4.0, 0.5], [0.0, 9.0]]), torch.tensor([[1.0, 3.0], [2.0, 0.0], [5.0, 4.0]])
    parts = sum(weighted_loss(each, counts.sum(dim=0), [0.3, 1.7]) for each in sums)
    assert float(parts) == pytest.approx(float(weighted_loss(sums.sum(dim=0), counts.sum(dim=0), [0.3, 1.7])))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_weights_of_another_number_of_terms_are_a_mistake(weights):
    with pytest.raises(AssertionError, match="a weight for each term"):
        weighted_loss(torch.ones(2), torch.ones(2), weights)
