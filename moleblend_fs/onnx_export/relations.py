"""The attention bias of pairs, and what atoms are told of distances, as ONNX operators; see `ops.relation_bias.reference`.

Shape legend: B molecules, n atoms (padded), H heads, K Gaussians.
"""

import math
from dataclasses import dataclass

import numpy as np

from moleblend_fs.data.graph import MAX_HOPS, UNREACHABLE
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.onnx_export.graph import Graph, value
from moleblend_fs.onnx_export.inputs import Inputs
from moleblend_fs.ops.embedding_rows import FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW, SPD_FIRST_ROW, UNREACHABLE_ROW

VALUES = 256
"""Different values of a byte."""
HIDDEN_ROW = 0
"""Row of the SPD table for pairs whose distance is not shown; zero in models that were trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """What a member makes of the pairs: names of values.

    Attributes:
        bias: (B, H, n, n). sums: (B, n, K) Gaussian sums, or None where structures are not read.
    """

    bias: str
    sums: str | None


def relations(graph: Graph, model: MoleBlend, inputs: Inputs) -> Relations:
    """All relations that are shown, added up."""
    parts: list[str] = []
    if inputs.reads_2d:
        parts.append(graph.add("Transpose", _paths(graph, model, inputs), perm=(0, 3, 1, 2)))
    else:
        parts.append(graph.constant(model.relations.spd_table.weight.detach().numpy()[HIDDEN_ROW].reshape(1, -1, 1, 1)))
    sums = None
    if inputs.reads_3d:
        bias, sums = _distances(graph, model, inputs)
        parts.append(bias)
    return Relations(bias=parts[0] if len(parts) == 1 else graph.add("Add", *parts), sums=sums)


def _paths(graph: Graph, model: MoleBlend, inputs: Inputs) -> str:
    """(B, n, n, H): the row of the distance, and the mean over a path of its bonds' rows, each times its hop's matrix."""
    rows = np.arange(VALUES) + SPD_FIRST_ROW
    rows[UNREACHABLE] = UNREACHABLE_ROW
    spd = graph.add("Gather", graph.constant(model.relations.spd_table.weight.detach().numpy()[rows]), inputs.spd)
    total = ""
    for hop, table in enumerate(model.relations.hop_table().detach().numpy()):
        bond = graph.add("Gather", graph.constant(table), inputs.bonds[hop])
        total = graph.add("Add", total, bond) if total else bond
    return graph.add("Add", spd, graph.add("Mul", total, inputs.inverse_length))


def inverse_lengths() -> np.ndarray:
    """(256,) 1 / min(max(spd, 1), 5) of every distance."""
    return (1 / np.arange(VALUES).clip(1, MAX_HOPS)).astype(np.float32)


def _distances(graph: Graph, model: MoleBlend, inputs: Inputs) -> tuple[str, str]:
    """(B, H, n, n) and (B, n, K), both 0 where a molecule has no structure; an atom's pairs at a time, so that memory does for many."""
    tables = {
        name: [graph.add("Gather", graph.constant(table.detach().numpy()[first : first + VALUES]), inputs.elements) for first in FIRST_ROWS]
        for name, table in (("mul", model.relations.distance_mul), ("shift", model.relations.distance_shift))
    }
    body = Graph("pairs_of_an_atom", prefix=f"{tables['mul'][0]}/", outer=graph)
    bias, sums = _pairs_of_an_atom(body, model, inputs, {name: seconds for name, (_, seconds) in tables.items()})
    heads, gaussians = model.config.attention_heads, model.config.gaussians
    scanned = [value("position", "float32", (None, 3)), value("mul", "float32", (None,)), value("shift", "float32", (None,))]
    made = [value(bias, "float32", (None, None, heads)), value(sums, "float32", (None, gaussians))]
    biases, all_sums = graph.add_several(
        "Scan",
        inputs.coordinates,
        tables["mul"][0],
        tables["shift"][0],
        names=("", ""),
        body=body.finished(scanned, made),
        num_scan_inputs=3,
        scan_input_axes=(1, 1, 1),
    )
    return (
        graph.add("Mul", graph.add("Transpose", biases, perm=(1, 3, 0, 2)), graph.add("Unsqueeze", inputs.has_3d, graph.integers(-1))),
        graph.add("Mul", graph.add("Transpose", all_sums, perm=(1, 0, 2)), inputs.has_3d),
    )


FIRST_ROWS = (FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW)
"""Where elements begin in the tables, as a pair's first and as its second atom."""


def _pairs_of_an_atom(body: Graph, model: MoleBlend, inputs: Inputs, seconds: dict[str, str]) -> tuple[str, str]:
    """(B, n, H) bias of the pairs of an atom, and (B, K) its Gaussian sums, of its position (B, 3) and the first rows mul, shift (B,)."""
    means, stds = (each.detach().numpy() for each in (model.relations.gaussian_means, model.relations.gaussian_stds))
    inverse = (1 / (np.abs(stds) + np.float32(0.01))).astype(np.float32)
    one = body.integers(1)
    apart = body.add("Sub", body.add("Unsqueeze", "position", one), inputs.coordinates)
    distance = body.add("ReduceL2", apart, body.integers(-1), keepdims=0)
    mul, shift = (body.add("Add", body.add("Unsqueeze", name, one), seconds[name]) for name in ("mul", "shift"))
    x = body.add("Unsqueeze", body.add("Add", body.add("Mul", mul, distance), shift), body.integers(-1))
    scaled = body.add("Mul", body.add("Sub", x, body.constant(means)), body.constant(inverse))
    power = body.add("Mul", body.add("Mul", scaled, scaled), body.constant(-0.5))
    features = body.add("Mul", body.add("Exp", power), body.constant(inverse / np.float32(math.sqrt(2 * math.pi))))
    hidden = features
    for layer in (model.relations.distance_hidden, model.relations.distance_out):
        weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
        if hidden != features:
            hidden = body.add("Gelu", hidden)
        hidden = body.add("Add", body.add("MatMul", hidden, body.constant(weight)), body.constant(bias))
    # As a product: the order in which ReduceSum adds up depends on how many molecules there are.
    return hidden, body.add("Squeeze", body.add("MatMul", inputs.exists_row, features), one)
