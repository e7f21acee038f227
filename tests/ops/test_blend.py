"""The op that draws a blend has no room above it to ask: what it knows of targets is what the model's are."""

from moleblend_fs.model import target_classes
from moleblend_fs.ops import blend


def test_classes_are_those_of_the_model():
    assert (blend.SPD_CLASSES, blend.EDGE_CLASSES) == (target_classes.SPD_CLASSES, target_classes.EDGE_CLASSES)
