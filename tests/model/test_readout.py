"""What stands for a molecule: the graph token, the mean of its atoms, or their sum, in training, scores and explanations alike."""

import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.record import encode
from moleblend_fs.errors import UserError
from moleblend_fs.inference.attribution import Molecule
from moleblend_fs.model.config import READOUTS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops.layout import Layout
from tests.inference.untrained_models import untrained
from tests.model.molecules import batch_of, graph

SIZE = {"layers": 2, "embed_dim": 12, "ffn_dim": 10, "attention_heads": 3, "gaussians": 5}
SMILES = ("CCO", "C", "c1ccccc1O")


@pytest.mark.parametrize("readout", READOUTS)
def test_the_property_head_reads_what_stands_for_a_molecule(readout):
    """Each molecule by itself, from its own tokens: the graph token comes first."""
    torch.manual_seed(0)
    model = MoleBlend(ModelConfig(**SIZE, heads=("property",), tasks=2, readout=readout, init_std=0.3)).double().eval()
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(SMILES)])
    layout = Layout(batch.num_atoms, "cpu")
    outputs = model(batch, show_all(batch, layout, "2d"), layout)
    ends = [0, *(batch.num_atoms + 1).cumsum(0).tolist()]
    for i in range(len(SMILES)):
        token, atoms = outputs.tokens[ends[i]], outputs.tokens[ends[i] + 1 : ends[i + 1]]
        expected = {"token": token, "mean": atoms.mean(0), "token+mean": token + atoms.mean(0)}[readout]
        torch.testing.assert_close(outputs.properties[i], model.heads["property"](expected))


@pytest.mark.parametrize("readout", READOUTS)
def test_explanations_read_what_the_model_reads(readout, tmp_path):
    found = load(untrained(tmp_path / "model", readout=readout))
    assert found.config.readout == readout
    model, molecule = found.build().double().eval(), graph("CCOC(=O)c1ccccc1", 0)
    batch = batch_of([molecule])
    layout = Layout(batch.num_atoms, "cpu")
    expected = model(batch, show_all(batch, layout, "2d"), layout).properties
    asked = Molecule(model, encode(molecule, 0), "2d", "cpu", 1000)
    torch.testing.assert_close(torch.from_numpy(asked.shares("zero", [0]).output), expected[0].detach().double())


def test_a_scale_of_the_outputs_is_a_learning_rate_of_the_last_layer():
    """Outputs begin the same; a step of Adam changes what the last layer gives ten times as much, and all else as ever."""
    models = []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        models.append(MoleBlend(ModelConfig(**SIZE, heads=("property",), tasks=2, output_scale=scale)).double().eval())
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(SMILES)])
    layout = Layout(batch.num_atoms, "cpu")
    before, changes = [], []
    for model, scale in zip(models, (1.0, 10.0), strict=True):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, eps=0)
        old = {name: value.clone() for name, value in model.heads["property"].state_dict().items()}
        outputs = model(batch, show_all(batch, layout, "2d"), layout).properties
        before.append(outputs.detach())
        outputs.square().sum().backward()
        optimizer.step()
        new = model.heads["property"].state_dict()
        changes.append({name: (new[name] - old[name]) * (scale if name.startswith("out.") else 1) for name in old})
    torch.testing.assert_close(*before)
    for name, change in changes[0].items():
        torch.testing.assert_close(changes[1][name], change * (10 if name.startswith("out.") else 1))


def test_weights_begin_as_wide_as_is_asked_for():
    torch.manual_seed(0)
    weights = MoleBlend(ModelConfig(**SIZE | {"embed_dim": 60}, init_std=0.07)).encoder.blocks[0].qkv.weight
    assert weights.std().item() == pytest.approx(0.07, rel=0.03)


def test_what_is_no_readout_is_told():
    with pytest.raises(UserError, match="--readout must be one of token, mean, token\\+mean, got 'max'"):
        ModelConfig(readout="max")
    with pytest.raises(UserError, match="--output-scale must be above 0, got -1"):
        ModelConfig(output_scale=-1)
    with pytest.raises(UserError, match="--init-std must be above 0, got 0"):
        ModelConfig(init_std=0)
