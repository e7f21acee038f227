"""What an exported model is given, and what all of its members make of that alike.

Shape legend: B molecules, n atoms (padded), N = n + 1 tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, ValueInfoProto

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.onnx_export.graph import Graph, value

ATOM_SIZES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Different values of OGB's nine atom features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Names of values.

    Attributes:
        reads_2d, reads_3d: which relations the members are shown.
        exists_row: (B, 1, n) float32, 1 for atoms, 0 for padding. key_mask: (B, 1, 1, N) float32, 0 for tokens, -inf for padding.
        features: of each atom feature (B, n) int64, rows of a table in which the features' rows lie end to end.
        elements, degree: (B, n) int64. spd: (B, n, n) int64. bonds: of each hop (B, n, n) int64.
        inverse_length: (B, n, n, 1) float32, 1 / bonds of a path that are counted.
        coordinates: (B, n, 3) float32. has_3d: (B, 1, 1) float32, 1 where there is a structure, else 0.
        batch, tokens: lists of one integer, B and N.
    """

    reads_2d: bool
    reads_3d: bool
    exists_row: str
    key_mask: str
    features: Sequence[str]
    elements: str
    degree: str
    spd: str
    bonds: Sequence[str]
    inverse_length: str
    coordinates: str
    has_3d: str
    batch: str
    tokens: str


def declared(reads_2d: bool, reads_3d: bool) -> list[ValueInfoProto]:
    """The graph's inputs."""
    found = [value("num_atoms", "int64", ("molecules",)), value("atom_features", "uint8", ("molecules", "atoms", len(ATOM_SIZES)))]
    if reads_2d:
        found += [
            value("degree", "uint8", ("molecules", "atoms")),
            value("spd", "uint8", ("molecules", "atoms", "atoms")),
            value("path_bonds", "uint8", ("molecules", "atoms", "atoms", MAX_HOPS)),
        ]
    if reads_3d:
        found += [value("coordinates", "float32", ("molecules", "atoms", 3)), value("has_coordinates", "bool", ("molecules",))]
    return found


def prepared(graph: Graph, reads_2d: bool, reads_3d: bool, inverse_lengths: np.ndarray) -> Inputs:
    """What the members share."""

    def integers(name: str) -> str:
        return graph.add("Cast", name, to=TensorProto.INT64)

    last = graph.integers(-1)
    atoms = graph.add("Shape", "atom_features", start=1, end=2)
    batch = graph.add("Shape", "atom_features", start=0, end=1)
    width = graph.add("Add", atoms, graph.integers(1))
    places = graph.add("Range", graph.constant(0, np.int64), graph.add("Squeeze", width), graph.constant(1, np.int64))
    token_exists = graph.add("LessOrEqual", places, graph.add("Unsqueeze", "num_atoms", last))
    mask = graph.add("Where", token_exists, graph.constant(0.0), graph.constant(-np.inf))
    exists = graph.add("Cast", token_exists, to=TensorProto.FLOAT)
    atom_exists = graph.add("Slice", exists, graph.integers(1), graph.integers(1 << 40), graph.integers(1))
    values = integers("atom_features")
    columns = [graph.add("Gather", values, graph.constant(i, np.int64), axis=2) for i in range(len(ATOM_SIZES))]
    starts = np.cumsum([0, *ATOM_SIZES])[:-1]
    spd, bonds, inverse, degree = "", [], "", ""
    if reads_2d:
        spd, paths, degree = integers("spd"), integers("path_bonds"), integers("degree")
        bonds = [graph.add("Gather", paths, graph.constant(hop, np.int64), axis=3) for hop in range(MAX_HOPS)]
        inverse = graph.add("Unsqueeze", graph.add("Gather", graph.constant(inverse_lengths), spd), last)
    has_3d = ""
    if reads_3d:
        has_3d = graph.add("Unsqueeze", graph.add("Cast", "has_coordinates", to=TensorProto.FLOAT), graph.integers(1, 2))
    return Inputs(
        reads_2d=reads_2d,
        reads_3d=reads_3d,
        exists_row=graph.add("Unsqueeze", atom_exists, graph.integers(1)),
        key_mask=graph.add("Unsqueeze", mask, graph.integers(1, 2)),
        features=[graph.add("Add", column, graph.constant(int(start), np.int64)) for column, start in zip(columns, starts, strict=True)],
        elements=columns[0],
        degree=degree,
        spd=spd,
        bonds=bonds,
        inverse_length=inverse,
        coordinates="coordinates" if reads_3d else "",
        has_3d=has_3d,
        batch=batch,
        tokens=width,
    )
