"""Which calls of an op go past torch's dispatcher: those that it has nothing to do for, with the same results."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")
from moleblend_fs.ops.gelu_dropout import launch

GIVEN = (0.25, 7, -8)


class Seen(TorchDispatchMode):
    """Notes our ops."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "moleblend":
            self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def dispatched(monkeypatch):
    """The calls that reached the dispatcher."""
    calls = []
    for op in (launch.forward, launch.backward):
        through = op._dispatched
        monkeypatch.setattr(op, "_dispatched", lambda *arguments, through=through: calls.append(through) or through(*arguments))
    return calls


def tensors(device):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random).to(device) for shape in ((5, 24), (24,), (5, 24))]


def run(x, bias, upstream):
    return launch.forward(x, bias, *GIVEN), *launch.backward(upstream, x, bias, *GIVEN)


@pytest.mark.parametrize("kind", [lambda x: x, torch.nn.Parameter], ids=["tensors", "parameters"])
def test_past_the_dispatcher_results_are_the_same(kind, device, dispatched):
    given = [kind(x) for x in tensors(device)]
    with torch.no_grad():
        direct = run(*given)
        assert not dispatched
        with Seen() as seen:
            through = run(*given)
    assert seen.names == ["gelu_dropout_forward", "gelu_dropout_backward"]
    assert len(dispatched) == 2
    assert all(torch.equal(a, b) for a, b in zip(direct, through, strict=True))


def test_gradients_that_are_recorded_are_the_dispatchers_affair(device, dispatched):
    """It refuses them, since an op alone has none; past it the result would look like a constant."""
    x, bias, _ = tensors(device)
    out = launch.forward(x.requires_grad_(), bias, *GIVEN)
    assert len(dispatched) == 1
    with pytest.raises(RuntimeError, match="autograd"):
        out.sum().backward()


@torch.no_grad()
def test_tensors_without_content_reach_the_op(device, dispatched):
    plain = tensors(device)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(x) for x in plain]
    for given, kind in ((fake, FakeTensor), ([x.to("meta") for x in plain], torch.Tensor)):  # the mode is not entered
        found = run(*given)
        assert [x.shape for x in found] == [(5, 24), (5, 24), (5, 24), (24,)]
        assert all(type(x) is kind and x.device == given[0].device for x in found)
    assert len(dispatched) == 4


@torch.no_grad()
def test_a_compiler_traces_the_op(device):
    given, graphs = tensors(device), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(run, backend=backend, fullgraph=True)(*given)
    called = {node.target for node in graphs[0].graph.nodes if node.op == "call_function"}
    ours = torch.ops.moleblend
    assert {ours.gelu_dropout_forward.default, ours.gelu_dropout_backward.default} <= called
    assert all(torch.equal(a, b) for a, b in zip(compiled, run(*given), strict=True))
