"""`Explainer`: attributions that sum to what they explain, relations that are really hidden, and a model whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from moleblend_fs import Explainer, Predictor
from moleblend_fs.checkpoint.read import Checkpoint, FinetunedFor, load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles
from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.record import encode
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.embedding import HIDDEN_ROWS
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops.layout import Layout
from moleblend_fs.predictions.explainer import BASELINES
from tests.inference.untrained_models import untrained
from tests.predictions.run_folders import run_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*does not say what it was trained on", "ignore:molecules are made of heavy atoms")
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
SHARES = {"C": 0.0, "N": -1.5, "O": 1.0, "F": 0.5, "S": 2.0}
"""What an atom adds to the property that is learned."""
PIECES = ("C", "N", "O", "CC", "C(F)", "C(=O)", "CS", "C(N)", "C(O)", "CCC", "NC", "C=C")


def batch_of(*smiles: str) -> MoleculeBatch:
    graphs = [graph_from_smiles(text, labels=np.zeros(0), options=BuildOptions()) for text in smiles]
    return collate([encode(graph, i) for i, graph in enumerate(graphs)])


def outputs(model: MoleBlend, batch: MoleculeBatch, change=lambda shown: shown, inputs: str = "2d") -> torch.Tensor:
    layout = Layout(batch.num_atoms, "cpu")
    return model(batch, change(show_all(batch, layout, inputs)), layout).properties


def additive(smiles: str) -> list[float]:
    """What each atom adds."""
    return [SHARES[atom.GetSymbol()] for atom in Chem.MolFromSmiles(smiles).GetAtoms()]


def chains(count: int, seed: int) -> list[str]:
    """Random chains with side groups; oxygen next to oxygen and the like are as good as any other molecule here."""
    rng = np.random.default_rng(seed)
    return ["C" + "".join(rng.choice(PIECES, size=int(rng.integers(2, 7)))) for _ in range(count)]


def test_a_model_of_an_additive_property_finds_what_each_atom_adds(tmp_path):
    train, held_out = chains(150, 0), [text for text in chains(15, 1) if text not in set(chains(150, 0))]
    torch.manual_seed(0)
    model = MoleBlend(ModelConfig(layers=2, embed_dim=32, ffn_dim=32, attention_heads=2, gaussians=8, heads=("property",), tasks=1))
    values = torch.tensor([[sum(additive(text))] for text in train])
    mean, std = float(values.mean()), float(values.std())
    about = FinetunedFor(inputs="2d", targets=("y",), kinds=("regression",), units=("",), mean=(mean,), std=(std,))

    def found(name: str) -> float:
        """Correlation of attributions and truth over all atoms of molecules that were not trained on."""
        save(Checkpoint(config=model.config, weights=model.state_dict(), finetuned=about), tmp_path / name)
        explained = Explainer(tmp_path / name, relations=False)(held_out)
        said, truth = np.concatenate([each.atoms[0] for each in explained]), np.concatenate([*map(additive, held_out)])
        return float(np.corrcoef(said, truth)[0, 1])

    before = found("untrained")
    batch, layout = (made := batch_of(*train)), Layout(made.num_atoms, "cpu")
    shown = show_all(batch, layout, "2d")
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(batch, shown, layout).properties, (values - mean) / std)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.15, "it was learned"
    assert found("trained") > 0.85
    assert before < 0.5, "which no model gives that did not learn it"


@pytest.mark.parametrize("baseline", BASELINES)
def test_attributions_sum_to_the_prediction_minus_the_baselines(tmp_path, baseline):
    model = load(untrained(tmp_path / "model", width=64, mean=3.0, std=2.0)).build()
    [found] = Explainer(tmp_path / "model", baseline=baseline, relations=False)([ASPIRIN])
    assert found.prediction[0] == pytest.approx(Predictor(tmp_path / "model")(ASPIRIN)["y"][0], abs=1e-5)
    batch = batch_of(ASPIRIN)
    layout = Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        tokens, bias = model.embed(batch, show_all(batch, layout, "2d"), layout)
        if baseline == "masked":
            tokens[1:] = model.atoms.atom_table.weight[HIDDEN_ROWS[0]]
        elif baseline == "zero":
            tokens[1:] = 0
        else:
            normalised = model.encoder.embedding_norm(tokens[1:])
        encoded = model.encode_embedded(tokens, bias, layout)
        if baseline == "mean":
            graph = model.encoder.embedding_norm(tokens[:1])
            mean = normalised.mean(dim=0).expand_as(normalised)
            encoded = model.encode_embedded(torch.cat([graph, mean]), bias, layout, normalised=True)
        said = 3.0 + 2.0 * float(model.heads["property"](encoded[:1]))
    assert found.baseline[0] == pytest.approx(said, abs=1e-4)
    assert abs(found.prediction[0] - said) > 0.05, "there is something to attribute"
    assert found.atoms[0].sum() == pytest.approx(found.prediction[0] - said, abs=5e-3)
    assert np.abs(found.atoms[0]).max() > 0.05


def test_relations_are_what_a_pass_without_them_says(tmp_path):
    model = load(untrained(tmp_path / "model", width=64, std=2.0)).build()
    smiles = "N#CC(O)CCl"
    whole, parts = (Explainer(tmp_path / "model", max_tokens=tokens)([smiles])[0] for tokens in (16_384, 20))
    assert whole.pairs.tolist() == [[i, j] for i in range(6) for j in range(i + 1, 6)]
    assert set(whole.relations) == {"spd", "edge"}
    batch = batch_of(smiles)
    with torch.no_grad():
        for place, (i, j) in enumerate(whole.pairs.tolist()):
            for name, bit in (("spd", 1), ("edge", 2)):

                def without(shown, i=i, j=j, bit=bit):
                    relations = shown.relations.clone().view(6, 6)
                    assert relations[i, j] & bit
                    relations[i, j] -= bit
                    relations[j, i] -= bit
                    return type(shown)(
                        relations=relations.flatten(), degree=shown.degree, distances=shown.distances, coordinates=shown.coordinates
                    )

                change = 2.0 * float(outputs(model, batch) - outputs(model, batch, without))
                assert whole.relations[name][0, place] == pytest.approx(change, abs=2e-5)
                assert parts.relations[name][0, place] == pytest.approx(change, abs=2e-5), "whatever is computed together"
    assert np.abs(whole.relations["spd"]).max() > 1e-3
    np.testing.assert_allclose(whole.atoms, parts.atoms, atol=1e-4)


def test_distances_are_relations_of_models_that_read_structures(tmp_path):
    untrained(tmp_path / "model", inputs="2d+3d", width=64, change=lambda model: model.relations.distance_out.weight.mul_(30))
    mol = Chem.AddHs(Chem.MolFromSmiles("OCCN"))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    flat, solid = Explainer(tmp_path / "model")([Chem.MolFromSmiles("OCCN"), mol])
    assert flat.status == "from 2D alone: no 3D structure"
    assert set(flat.relations) == {"spd", "edge"}
    assert set(solid.relations) == {"spd", "edge", "distance"}
    assert np.abs(solid.relations["distance"]).min() > 0
    assert solid.atoms.sum() == pytest.approx(solid.prediction[0] - solid.baseline[0], abs=2e-3)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_of_an_ensemble_the_mean_is_explained(tmp_path, kind):
    folder = run_folder(tmp_path / "run", kind=kind)
    [found] = Explainer(folder)([ASPIRIN])
    said = float(Predictor(folder)(ASPIRIN)["y"][0])
    said = float(np.log(said / (1 - said))) if kind == "classification" else said
    assert found.units == (("log odds",) if kind == "classification" else ("mol/L",))
    assert found.prediction[0] == pytest.approx(said, abs=1e-4)
    assert found.atoms.sum() == pytest.approx(said - found.baseline[0], abs=5e-3)
    slope = 2.0 if kind == "classification" else 1.0
    alone = [Explainer(path)([ASPIRIN])[0] for path in sorted((folder / "members").glob("*/model"))]
    np.testing.assert_allclose(found.atoms, slope * np.mean([each.atoms for each in alone], axis=0), atol=1e-6)
    np.testing.assert_allclose(found.relations["edge"], slope * np.mean([each.relations["edge"] for each in alone], axis=0), atol=1e-6)


def test_what_is_not_explained_says_why_and_targets_are_chosen(tmp_path):
    untrained(tmp_path / "model", targets=("a", "b"), inputs="3d", width=64)
    found = Explainer(tmp_path / "model", allow_differences=["structures"])(["C1CC"])[0]
    assert found.status.startswith("no molecule: ")
    assert found.atoms.size == found.prediction.size == 0
    untrained(tmp_path / "two", targets=("a", "b"), width=64)
    both, second = (Explainer(tmp_path / "two", targets=names, relations=False)(["CCO"])[0] for names in (None, ["b"]))
    assert both.elements == ("C", "C", "O")
    np.testing.assert_allclose(both.atoms[1], second.atoms[0])
    assert abs(both.atoms[0] - both.atoms[1]).max() > 1e-3
    with pytest.raises(UserError, match="no target 'c'; there are: a, b"):
        Explainer(tmp_path / "two", targets=["c"])
    untrained(tmp_path / "many", targets=[f"t{i}" for i in range(13)])
    with pytest.raises(UserError, match="13 targets; say which"):
        Explainer(Path(tmp_path / "many"))
