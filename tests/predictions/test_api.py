"""`Predictor` and `Embedder`."""

import csv
import re
from concurrent.futures import Future

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

import moleblend_fs
from moleblend_fs import Embedder, Predictor
from moleblend_fs.cli.main import main
from moleblend_fs.errors import UserError
from tests.conftest import ROOT
from tests.inference.untrained_models import untrained
from tests.predictions.run_folders import run_folder

SMILES = ["CCO", "c1ccccc1", "bad", "CC(=O)O", ""]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not say what it was trained on", "ignore:molecules are made of heavy atoms")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("models") / "model", width=64)


def test_smiles_molecules_frames_and_files_give_the_same_bits(model, tmp_path):
    pandas = pytest.importorskip("pandas")
    with Predictor(model) as predictor:
        found = predictor.predict(SMILES)
        assert [status.split(":")[0] for status in found.status] == ["ok", "ok", "no molecule", "ok", "no molecule"]
        assert np.isnan(found["y"]).tolist() == [False, False, True, False, True]
        assert np.array_equal(predictor("c1ccccc1").values, found.values[1:2])
        assert np.array_equal(predictor(Chem.MolFromSmiles("c1ccccc1")).values, found.values[1:2])
        frame = pandas.DataFrame({"id": range(5), "Smiles": SMILES})
        assert np.array_equal(predictor(frame).values, found.values, equal_nan=True)
        frame.to_csv(tmp_path / "in.csv", index=False)
        read = predictor(tmp_path / "in.csv")
        assert np.array_equal(read.values, found.values, equal_nan=True)
        assert list(read.to_pandas().columns) == ["id", "Smiles", "y", "status"]
        assert main(["predict", str(model), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "--no-progress"]) == 0
        written = pandas.read_csv(tmp_path / "out.csv")["y"].to_numpy()
        np.testing.assert_array_equal([f"{value:.7g}" for value in found["y"]], [f"{value:.7g}" for value in written])
        assert len(predictor([])) == 0
        with pytest.raises(UserError, match="all be SMILES, or all be RDKit"):
            predictor(["CCO", Chem.MolFromSmiles("C")])


def test_an_ensemble_tells_what_the_table_tells(tmp_path):
    with Predictor(run_folder(tmp_path / "run")) as predictor:
        found = predictor.predict(["CCO", "bad"])
    assert found.std is not None
    assert found.low is not None
    assert found.low[0, 0] < found["y"][0]
    assert found.similarity is not None
    assert found.similarity[0] == 1.0
    assert list(found.to_dict()) == ["smiles", "y", "y_std", "y_low", "y_high", "similarity", "outside_domain", "status"]


def test_what_is_not_known_of_a_row_is_missing(tmp_path):
    """In arrays, the frame and the file alike: of what is no molecule nothing is known, of one without a prediction its similarity is."""
    pandas = pytest.importorskip("pandas")
    folder, given = run_folder(tmp_path / "run"), ["CCO", "bad", "FC(F)(F)c1nnn(Br)c1S(=O)=O"]
    with Predictor(folder) as predictor:
        found, nothing, alone = predictor.predict(given), predictor.predict([]), predictor.predict(["bad"])
    assert found.outside is not None
    assert found.outside.tolist() == [False, None, True]
    frame = found.to_pandas()
    assert str(frame["outside_domain"].dtype) == "boolean"
    assert frame.isna().sum().to_dict() == {name: int(name not in ("smiles", "status")) for name in frame}
    assert main(["predict", str(folder), str(tmp_path / "out.csv"), "--smiles", *given]) == 0
    written = pandas.read_csv(tmp_path / "out.csv")
    assert written.isna().equals(frame.isna())
    for few, rows in ((nothing, 0), (alone, 1)):
        assert list(few.to_dict()) == list(found.to_dict())
        assert few.to_pandas().isna().sum().sum() == 6 * rows
        assert len(few) == rows


def test_a_molecule_without_a_finite_output_has_no_prediction(tmp_path):
    """Not even the probability that an infinite logit would be; how similar it is, is known."""
    folder = run_folder(tmp_path / "run", kind="classification")
    with Predictor(folder) as predictor:
        forward = predictor._forward.submit_records

        def infinite(records):
            values = forward(records).result()
            values[0] = np.inf
            done = Future()
            done.set_result(values)
            return done

        predictor._forward.submit_records = infinite
        found = predictor.predict(["CCO"])
    assert found.status == ["no prediction: the model's output is not finite"]
    assert np.isnan(found.values).all()
    assert np.isnan(found.std).all()
    assert found.outside.tolist() == [False]


def test_columns_of_the_input_that_are_called_as_ours(tmp_path):
    """They stay, and ours get another name, the same one in the file and from Python."""
    folder = run_folder(tmp_path / "run")
    theirs = ["smiles", "y", "y (predicted)", "y_std", "y_low", "similarity", "outside_domain", "status", "x", "x"]
    (tmp_path / "in.csv").write_text(",".join(theirs) + "\nCCO," + ",".join("abcdefghi") + "\n")
    assert main(["predict", str(folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "--no-progress"]) == 0
    with open(tmp_path / "out.csv", newline="") as stream:
        header, line = csv.reader(stream)
    assert header[:10] == theirs
    assert line[1:10] == list("abcdefghi")
    assert len(set(header)) == len(header) - 1
    with Predictor(folder) as predictor:
        found = predictor.predict(tmp_path / "in.csv").to_dict()
    assert list(found) == [*theirs[:-1], "x (2)", *header[10:]]
    assert [found[name][0] for name in [*theirs[1:-1], "x (2)"]] == list("abcdefghi")
    assert header[-1] == "status (predicted)"
    assert found["status (predicted)"] == ["ok"]


def test_conformers_are_taken_with_their_coordinates(tmp_path):
    """A turned structure gives the same prediction, another structure another one, hydrogens or not."""

    def sharpened(model) -> None:
        model.relations.distance_out.weight.mul_(30)

    model = untrained(tmp_path / "model", inputs="2d+3d", width=64, change=sharpened)
    mol = Chem.AddHs(Chem.MolFromSmiles("OCCCCCCCN"))
    AllChem.EmbedMultipleConfs(mol, 2, randomSeed=7)
    folded, stretched = Chem.Mol(mol, confId=0), Chem.Mol(mol, confId=1)
    turned = Chem.Mol(folded)
    xyz = turned.GetConformer().GetPositions()[:, [1, 2, 0]] + 1.5
    for place, point in enumerate(xyz):
        turned.GetConformer().SetAtomPosition(place, point.tolist())
    with Predictor(model) as predictor:
        found = predictor([folded, stretched, turned, Chem.RemoveHs(folded), Chem.MolFromSmiles("OCCCCCCCN")])
    assert found.status == ["ok"] * 4 + ["from 2D alone: no 3D structure"]
    values = found["y"]
    assert abs(values[0] - values[1]) > 1e-4
    assert abs(values[0] - values[2]) < 1e-5  # float32's rounding of values near 6
    assert values[0] == values[3]
    with Predictor(model, hydrogens="explicit") as predictor:
        found = predictor([folded, Chem.RemoveHs(folded)])
    assert found.status[0] == "ok"
    assert "the structure lacks hydrogens" in found.status[1]


def test_representations(model):
    with Embedder(model) as embedder:
        graph, mean, atoms = embedder(SMILES), embedder(SMILES, level="mean"), embedder(SMILES, level="atom")
        assert graph.shape == mean.shape == (5, 64)
        assert np.isnan(graph).all(axis=1).tolist() == [False, False, True, False, True]
        assert [None if each is None else each.shape for each in atoms] == [(3, 64), (6, 64), None, (4, 64), None]
        np.testing.assert_allclose(mean[3], atoms[3].mean(axis=0), rtol=1e-5, atol=1e-6)
        assert np.array_equal(embedder(SMILES[::-1])[::-1], graph, equal_nan=True)
        assert np.ptp(atoms[1], axis=0).max() < 1e-5, "benzene's atoms are alike"
        with pytest.raises(UserError, match="no head that predicts distances"):
            embedder("CCO", level="distances")
    last, first = Embedder(model, layer=2), Embedder(model, layer=0)
    assert np.array_equal(last(SMILES), graph, equal_nan=True)
    assert abs(first("CCO") - first("c1ccccc1")).max() < 1e-6, "before the first block a graph token knows nothing of its molecule"
    with pytest.raises(UserError, match="layer must lie in 0 to 2"):
        Embedder(model, layer=3)


def test_the_example_of_the_page(tmp_path, monkeypatch, capsys):
    """The Python of docs/predictions.md, in a folder that has what it names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("smiles\nCCO\n")
    for run in ("bbbp", "pretrain"):
        untrained(tmp_path / "runs" / run / "checkpoint_best.pt", width=64)
    text = (ROOT / "docs" / "predictions.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert "['ok', 'ok', " in capsys.readouterr().out
    assert names["found"].status[2].startswith("no molecule: ")
    assert names["table"]["status"] == ["ok"]
    assert names["atoms"][0].shape == (3, 64)


def test_names_are_there_without_being_loaded():
    assert {"Predictor", "Embedder"} <= set(dir(moleblend_fs))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        moleblend_fs.Nothing
