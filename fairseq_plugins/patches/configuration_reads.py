"""Replaces `omegaconf.DictConfig.__getattr__` (omegaconf 2.3), by which fairseq reads its configuration, some 70 times an update.

A value that is there and says all of itself is given at once; anything else goes omegaconf's way, through a dozen calls.
"""

from typing import Any

from omegaconf import AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, StringNode

PINS = {
    "omegaconf.dictconfig.DictConfig.__getattr__": "12baf235cadf",
    "omegaconf.dictconfig.DictConfig._get_impl": "133240933863",
    "omegaconf.dictconfig.DictConfig._get_node": "43dec9b6a88f",
    "omegaconf.basecontainer.BaseContainer._resolve_with_default": "7216cc3d586c",
    "omegaconf.nodes.ValueNode._value": "cedf7b8f7cb1",
}
NODES = frozenset((AnyNode, BooleanNode, FloatNode, IntegerNode, StringNode))
PLAIN = frozenset((bool, int, float, type(None)))

_omegaconf_getattr = DictConfig.__getattr__


def read(self: DictConfig, key: str) -> Any:
    """omegaconf's attribute. Texts may refer to other values, or stand for one that is missing."""
    content = self.__dict__.get("_content")
    node = content.get(key) if type(content) is dict else None
    kind = type(node)
    if kind in NODES:
        value = node.__dict__["_val"]
        if type(value) in PLAIN or (type(value) is str and "$" not in value and value != "???"):
            return value
    elif kind is DictConfig and type(node.__dict__["_content"]) is dict:
        return node
    return _omegaconf_getattr(self, key)


def install() -> None:
    """Put ours in its place."""
    DictConfig.__getattr__ = read  # type: ignore[method-assign]
