"""Members of a model, from atoms to outputs, as ONNX operators; see `model.embedding`, `model.encoder` and `model.heads`.

Molecules are padded to a common size. Padding is never attended to and no sum counts it, so that it changes no number but for rounding.
Shape legend: B molecules, n atoms (padded), N = n + 1 tokens, d embedding width, H heads, w = d / H.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from torch import nn

from moleblend_fs.model.config import MEAN, TOKEN
from moleblend_fs.model.encoder import Block
from moleblend_fs.model.heads import PropertyHead
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.onnx_export.graph import Graph, value
from moleblend_fs.onnx_export.inputs import ATOM_SIZES, Inputs, declared, prepared
from moleblend_fs.onnx_export.relations import VALUES, Relations, inverse_lengths, relations
from moleblend_fs.ops.embedding_rows import ATOM_FIRST_ROW, DEGREE_FIRST_ROW, TABLE_ROWS

OPSET, IR_VERSION = 20, 10
"""Of ONNX 1.16, from 2024: the first opset with GELU."""
PROPERTIES, TOKENS = "properties", "tokens"
"""Outputs: (members, B, tasks); and of each member (B, N, d), the graph token first, called tokens_0, tokens_1, ..."""


def network(models: Sequence[MoleBlend], inputs: str, *, predicts: bool) -> ModelProto:
    """A model whose members read the same molecules.

    Args:
        models: in evaluation mode, on the CPU.
        inputs: "2d", "3d" or "2d+3d". predicts: whether their property heads are wanted, and not representations alone.
    """
    reads_2d, reads_3d = inputs != "3d", "3d" in inputs
    graph = Graph("moleblend")
    shared = prepared(graph, reads_2d, reads_3d, inverse_lengths())
    properties, outputs = [], []
    for number, model in enumerate(models):
        d = model.config.embed_dim
        rows = _encoded(graph, model, shared)
        tokens = graph.add("Reshape", rows, _shape(graph, shared, d), name=f"{TOKENS}_{number}")
        outputs.append(value(tokens, "float32", ("molecules", "tokens", d)))
        if predicts:
            head = model.heads["property"]
            assert isinstance(head, PropertyHead)
            properties.append(_property(graph, head, _read_out(graph, shared, tokens, model.config.readout)))
    if predicts:
        graph.add("Concat", *properties, axis=0, name=PROPERTIES)
        outputs.insert(0, value(PROPERTIES, "float32", (len(models), "molecules", models[0].config.tasks)))
    finished = graph.finished(declared(reads_2d, reads_3d), outputs)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(finished, opset_imports=[opset], ir_version=IR_VERSION, producer_name="moleblend_fs")


def checked(model: ModelProto) -> None:
    """An error of onnx where operators do not fit together."""
    onnx.checker.check_model(model, full_check=True)


def _shape(graph: Graph, shared: Inputs, *last: int) -> str:
    """(B, N, ...)."""
    return graph.add("Concat", shared.batch, shared.tokens, graph.integers(*last), axis=0)


def _linear(graph: Graph, x: str, layer: nn.Linear) -> str:
    """Of rows."""
    weight, bias = graph.constant(layer.weight.detach().numpy()), graph.constant(layer.bias.detach().numpy())
    return graph.add("Gemm", x, weight, bias, transB=1)


def _normed(graph: Graph, x: str, norm: nn.LayerNorm) -> str:
    weight, bias = graph.constant(norm.weight.detach().numpy()), graph.constant(norm.bias.detach().numpy())
    return graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=norm.eps)


def _embedded(graph: Graph, model: MoleBlend, shared: Inputs, sums: str | None) -> str:
    """(B, n, d) embedding sums of the atoms."""
    table = model.atoms.atom_table.weight.detach().numpy()
    used = [ATOM_FIRST_ROW + TABLE_ROWS * i + np.arange(size) for i, size in enumerate(ATOM_SIZES)]
    rows = graph.constant(table[np.concatenate(used)])
    total = ""
    for feature in shared.features:
        row = graph.add("Gather", rows, feature)
        total = graph.add("Add", total, row) if total else row
    if shared.reads_2d:
        both = (model.atoms.in_degree_table.weight + model.atoms.out_degree_table.weight).detach().numpy()
        degree = graph.add("Gather", graph.constant(both[DEGREE_FIRST_ROW : DEGREE_FIRST_ROW + VALUES]), shared.degree)
        total = graph.add("Add", total, degree)
    if sums is not None:
        layer = model.atoms.from_gaussians
        weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
        feature = graph.add("Add", graph.add("MatMul", sums, graph.constant(weight)), graph.constant(bias))
        feature = graph.add("Mul", graph.add("Mul", feature, graph.constant(0.01)), shared.has_3d)
        total = graph.add("Add", total, feature)
    return total


def _encoded(graph: Graph, model: MoleBlend, shared: Inputs) -> str:
    """(B N, d) representations of all tokens."""
    config = model.config
    related = relations(graph, model, shared)
    atoms = _embedded(graph, model, shared, related.sums)
    one = graph.integers(1)
    graph_token = graph.constant(model.atoms.graph_token.detach().numpy().reshape(1, 1, -1))
    lone = graph.add("Expand", graph_token, graph.add("Concat", shared.batch, one, one, axis=0))
    x = graph.add("Reshape", graph.add("Concat", lone, atoms, axis=1), graph.integers(-1, config.embed_dim))
    bias = _with_graph_token(graph, model, shared, related)
    x = _normed(graph, x, model.encoder.embedding_norm)
    for block in model.encoder.blocks:
        assert isinstance(block, Block)
        x = _block(graph, block, x, bias, shared, config.embed_dim)
    return x


def _with_graph_token(graph: Graph, model: MoleBlend, shared: Inputs, related: Relations) -> str:
    """(B, H, N, N) bias of all pairs of tokens; -inf for padded keys."""
    heads = model.config.attention_heads
    token = graph.constant(model.relations.graph_bias.detach().numpy().reshape(1, heads, 1, 1))
    of_heads, one = graph.integers(heads), graph.integers(1)
    atoms = graph.add("Sub", shared.tokens, one)
    row = graph.add("Expand", token, graph.add("Concat", shared.batch, of_heads, one, atoms, axis=0))
    column = graph.add("Expand", token, graph.add("Concat", shared.batch, of_heads, shared.tokens, one, axis=0))
    full = graph.add("Concat", column, graph.add("Concat", row, related.bias, axis=2), axis=3)
    return graph.add("Add", full, shared.key_mask)


def _block(graph: Graph, block: Block, x: str, bias: str, shared: Inputs, d: int) -> str:
    """(B N, d) from one block's input to the next one's."""
    width = d // block.heads
    parts = graph.add_several("Split", _linear(graph, x, block.qkv), names=("", "", ""), axis=1, num_outputs=3)
    shape = _shape(graph, shared, block.heads, width)
    q, k, v = (graph.add("Reshape", part, shape) for part in parts)
    q = graph.add("Mul", graph.add("Transpose", q, perm=(0, 2, 1, 3)), graph.constant(width**-0.5))
    k = graph.add("Transpose", k, perm=(0, 2, 3, 1))
    v = graph.add("Transpose", v, perm=(0, 2, 1, 3))
    weights = graph.add("Softmax", graph.add("Add", graph.add("MatMul", q, k), bias), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", weights, v), perm=(0, 2, 1, 3))
    attended = _linear(graph, graph.add("Reshape", mixed, graph.integers(-1, d)), block.attention_out)
    x = _normed(graph, graph.add("Add", x, attended), block.attention_norm)
    hidden = graph.add("Gelu", _linear(graph, x, block.ffn_in))
    return _normed(graph, graph.add("Add", x, _linear(graph, hidden, block.ffn_out)), block.ffn_norm)


def _read_out(graph: Graph, shared: Inputs, tokens: str, readout: str) -> str:
    """(B, d), see `model.readout`."""
    token = graph.add("Gather", tokens, graph.constant(0, np.int64), axis=1)
    if readout == TOKEN:
        return token
    atoms = graph.add("Slice", tokens, graph.integers(1), graph.integers(1 << 40), graph.integers(1))
    total = graph.add("Squeeze", graph.add("MatMul", shared.exists_row, atoms), graph.integers(1))
    count = graph.add("Unsqueeze", graph.add("Cast", "num_atoms", to=TensorProto.FLOAT), graph.integers(1))
    mean = graph.add("Div", total, count)
    return mean if readout == MEAN else graph.add("Add", token, mean)


def _property(graph: Graph, head: PropertyHead, x: str) -> str:
    """(1, B, tasks)."""
    out = _linear(graph, graph.add("Gelu", _linear(graph, x, head.hidden)), head.out)
    out = graph.add("Mul", out, graph.constant(head.output_scale)) if head.output_scale != 1 else out
    return graph.add("Unsqueeze", out, graph.integers(0))
