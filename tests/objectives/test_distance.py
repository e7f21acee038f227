"""Distance prediction: every ordered pair, by absolute error."""

import numpy as np
import pytest
import torch

from moleblend_fs.objectives.distance import Distance, DistanceOptions
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import batch_of, graph
from tests.objectives.suite import Case, model_of

CASE = Case(variants={"outer": {"distance_head": "outer"}}, reached={"outer": 0.6})


@pytest.mark.parametrize("head", ["concat", "outer"])
def test_a_3_4_5_triangle_and_a_constant_4(head):
    """(1 + 0 + 1) / 3."""
    triangle = graph("CCO", 0)
    triangle.coordinates = np.array([[[0, 0, 0], [3, 0, 0], [0, 4, 0]]], dtype=np.float32)
    batch = batch_of([triangle, graph("CC", 1, coordinates=False), graph("C", 2)])
    objective = Distance(DistanceOptions(distance_head=head))
    model = model_of(objective)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
        (model.heads["distance_concat"].left if head == "concat" else model.heads["distance_outer"].axes).bias.fill_(4)
    ready = objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)
    assert float(ready.counts) == 6
    assert float(objective.loss_sums(model, ready) / ready.counts) == pytest.approx(2 / 3, abs=1e-12)
