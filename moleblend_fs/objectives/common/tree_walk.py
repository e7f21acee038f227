"""Steps of walks over trees: depth first, or breadth first as MGSSL does it, of many trees side by side.

Shape legend: N nodes of all trees, S steps of all walks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

UP, DOWN, STOP = range(3)
"""Kinds of steps: back to the parent, on to a child, and standing at a node that has no more."""
ORDERS = ("dfs", "bfs")


class Walk(NamedTuple):
    """Steps in the order of time; those of one time, one of each tree at most, stand together.

    Attributes:
        source: (S,) int64, the node that is left. target: (S,) int64, the node that is reached; -1 where a walk stands.
        kind: (S,) int64.
        sizes: how many steps each time has.
    """

    source: Tensor
    target: Tensor
    kind: Tensor
    sizes: tuple[int, ...]


def walk(tree_N: Tensor, number_N: Tensor, parent_N: Tensor, order: str) -> Walk:
    """Walks of all trees, in one of `ORDERS`.

    Depth first: down to a child, all of its own, and up again; at the end the root stands. Breadth first: level by level each node goes
    down to each child and straight up again, and then stands.

    Args:
        tree_N: the tree of each node. number_N: its place in a depth-first walk; nodes of a tree follow each other in this order.
        parent_N: its parent among all nodes, -1 of roots.
    """
    nodes, child = torch.arange(len(parent_N), device=parent_N.device), (parent_N >= 0).nonzero().squeeze(1)
    time = _times_in_depth if order == "dfs" else _times_in_breadth
    down, up, stands, stop = time(tree_N, number_N, parent_N, child)
    source = torch.cat([parent_N[child], child, nodes[stands]])
    target = torch.cat([child, parent_N[child], torch.full_like(nodes[stands], -1)])
    kind = torch.cat([torch.full_like(child, DOWN), torch.full_like(child, UP), torch.full_like(nodes[stands], STOP)])
    times = torch.cat([down, up, stop])
    # Within a time by trees: sums of a batch then do not depend on how its trees were listed.
    place = torch.argsort(times * (len(nodes) + 1) + tree_N[source])
    sizes = torch.bincount(times).tolist()
    return Walk(source[place], target[place], kind[place], tuple(sizes))


def depths(parent_N: Tensor) -> Tensor:
    """(N,) int64, how far each node is from its root."""
    depth, above = torch.zeros_like(parent_N), parent_N
    while (above >= 0).any():
        depth, above = depth + (above >= 0), torch.where(above >= 0, parent_N[above], -1)
    return depth


def _times_in_depth(tree_N: Tensor, number_N: Tensor, parent_N: Tensor, child: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Times of steps down to and up from children, nodes that stand, and when."""
    depth, below = depths(parent_N), torch.ones_like(parent_N)
    for level in range(int(depth.max()) if len(depth) else 0, 0, -1):
        here = (depth == level).nonzero().squeeze(1)
        below = below.index_add(0, parent_N[here], below[here])
    # Before the i-th node of a walk there were i - 1 steps down, and as many up but for the nodes above it.
    down = (2 * number_N - 1 - depth)[child]
    root = (parent_N < 0).nonzero().squeeze(1)
    return down, down + 2 * below[child] - 1, root, 2 * (below[root] - 1)


def _times_in_breadth(tree_N: Tensor, number_N: Tensor, parent_N: Tensor, child: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    nodes = torch.arange(len(parent_N), device=parent_N.device)
    children = torch.zeros_like(parent_N).index_add(0, parent_N[child], torch.ones_like(child))
    # Nodes of a level in the order of a depth-first walk are in that of their parents.
    order = torch.argsort((tree_N * (len(nodes) + 1) + depths(parent_N)) * (len(nodes) + 1) + number_N)
    ends = (2 * children + 1)[order].cumsum(0)
    first_of_tree = (parent_N < 0)[order]
    before_tree = torch.cummax(torch.where(first_of_tree, ends - (2 * children + 1)[order], 0), dim=0).values if len(nodes) else ends
    end = torch.empty_like(nodes)
    end[order] = ends - before_tree  # steps of its tree until a node stands, that one with them
    by_parent = child[torch.argsort(parent_N[child] * (len(nodes) + 1) + number_N[child])]
    starts = children.cumsum(0) - children
    among = torch.empty_like(nodes)
    among[by_parent] = torch.arange(len(child), device=nodes.device) - starts[parent_N[by_parent]]
    start = end - 2 * children - 1
    down = start[parent_N[child]] + 2 * among[child]
    return down, down + 1, nodes, end - 1
