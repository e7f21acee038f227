"""What losses take as given. To be called as `gradients.stopped(x)`: the check of gradients holds such values while others move."""

from torch import Tensor


def stopped(x: Tensor) -> Tensor:
    """The same values, through which no gradient goes."""
    return x.detach()
