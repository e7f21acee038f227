"""A graph of ONNX operators, written down node by node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8, "bool": TensorProto.BOOL}
Dimension = int | str | None
"""A size, a name for one that varies, or None for one that is not told."""


class Graph:
    """Nodes in the order of their computation, and the constants that they read.

    Args:
        name: of the graph. prefix: what names of its values begin with. outer: the graph that it is the body of an operator in: what is
            computed there may be read here, and constants are kept there.
    """

    def __init__(self, name: str, prefix: str = "", outer: "Graph | None" = None):
        self.name, self._outer = name, outer
        self._prefix = prefix
        self._nodes: list[NodeProto] = []
        self._constants: dict[bytes, str] = {}
        self._initializers: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The name of an operator's only output."""
        return self.add_several(operator, *inputs, names=(name,), **attributes)[0]

    def add_several(self, operator: str, *inputs: str, names: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """The names of an operator's outputs; new ones are made up where they are empty."""
        outputs = tuple(given or f"{self._prefix}{operator.lower()}_{len(self._nodes)}_{place}" for place, given in enumerate(names))
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant; equal ones are kept once."""
        if self._outer is not None:
            return self._outer.constant(value, dtype)
        array = np.ascontiguousarray(value, dtype=dtype)
        array = array.reshape(np.shape(value))  # a scalar stays one
        key = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """A constant list of integers, as shapes and axes are given."""
        return self.constant(values, np.int64)

    def finished(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """The whole graph."""
        return helper.make_graph(self._nodes, self.name, inputs, outputs, self._initializers)


def value(name: str, dtype: str, shape: Sequence[Dimension]) -> ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, TYPES[dtype], shape)
