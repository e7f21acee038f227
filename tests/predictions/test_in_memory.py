"""Molecules of Python programs: what lists, arrays and tables may hold, and that nothing is lost, reordered or misread on the way."""

import copy
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs import Embedder, Explainer, Predictor
from moleblend_fs.chem.conformers import ConformerOptions
from moleblend_fs.chem.identity import molecule_key
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles
from moleblend_fs.data.record import decode, encode, inflate
from moleblend_fs.errors import UserError
from moleblend_fs.predictions.in_memory import entries, frame_of, is_missing, taken
from moleblend_fs.sources.row_results import encode_row
from tests.inference.untrained_models import untrained

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not say what it was trained on", "ignore:molecules are made of heavy atoms")
MOL = Chem.MolFromSmiles("CCO")


class Polars:
    """A frame as polars has it: `columns` are names, `get_columns` the columns, which `to_list`."""

    def __init__(self, columns):
        self._series = [pandas.Series(values, name=name) for name, values in columns.items()]
        self.columns = list(columns)

    def get_columns(self):
        return self._series


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("models") / "model", width=64)


def cells(given):
    return [row.raw[1] if isinstance(row.raw[1], Chem.Mol) else row.raw.smiles for row in taken(given).incoming()]


@pytest.mark.parametrize(
    "given",
    [
        ["CCO", None, "CC"],
        ("CCO", float("nan"), "CC"),
        ["CCO", pandas.NA, "CC"],
        [b"CCO", None, np.str_("CC")],
        iter(["CCO", "", "CC"]),
        np.array([["CCO"], [None], ["CC"]], dtype=object),
        pandas.Series(["CCO", None, "CC"], index=[5, 3, 9]),
        pandas.Series(["CCO", None, "CC"], dtype="string"),
        pandas.Series(["CCO", None, "CC"], dtype="category"),
        pandas.Series(["CCO", None, "CC"], dtype="string[pyarrow]"),
        pyarrow.array(["CCO", None, "CC"]),
        pyarrow.table({"id": [1, 2, 3], "SMILES": ["CCO", None, "CC"]}),
        pandas.DataFrame({"id": [1, 2, 3], "smiles": pandas.array(["CCO", None, "CC"], dtype="string")}),
        pandas.DataFrame([["CCO", 1], [None, 2], ["CC", 3]], columns=pandas.MultiIndex.from_tuples([("smiles", ""), ("y", "1")])),
        {"id": np.arange(3), "smiles": ["CCO", None, "CC"]},
        {"CCO": 1, "": 2, "CC": 3}.keys(),
        Polars({"id": [1, 2, 3], "smiles": ["CCO", None, "CC"]}),
    ],
)
def test_a_missing_smiles_is_a_row_without_one(given):
    assert cells(given) == ["CCO", "", "CC"]


def test_molecules_of_rdkit_in_columns():
    assert cells(pandas.DataFrame({"id": [1], "ROMol": [MOL]})) == [MOL]
    assert cells({"smiles": [MOL, MOL]}) == [MOL, MOL]
    assert [row.raw[1] for row in taken({"smiles": [None, MOL]}).incoming()] == [None, MOL]
    assert cells(pandas.DataFrame({"smiles": ["CC"], "ROMol": [MOL]})) == ["CC"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"CCO", "CC"}, "is a set, which has no order"),
        (5, "is a int"),
        (None, "is a NoneType"),
        (np.array("CCO"), "is a ndarray"),
        (np.array([["CCO", "CC"]]), r"one column is needed, this has the shape \(1, 2\)"),
        (["CCO", MOL], "all be RDKit molecules; number 1, counted from 0, is of the type Mol"),
        ([["CCO"]], "number 0, counted from 0, is of the type list"),
        ({"x": ["CCO"]}, "no column called smiles; it has: x"),
        ({"smiles": ["CCO"], "id": [1, 2]}, r"different lengths: smiles \(1\), id \(2\)"),
        ({"smiles": "CCO"}, "column 'smiles': a list"),
        (pandas.DataFrame([["CCO", "CC"]], columns=["smiles", "smiles"]), "twice: smiles"),
        ("molecules.csv", "molecules.csv: no such file"),
        ("some/where.SDF.gz", "no such file"),
    ],
)
def test_what_cannot_be_meant_is_told(given, message):
    with pytest.raises(UserError, match=message):
        taken(given)


def test_no_smiles_is_too_long_for_the_name_of_a_file():
    assert cells("C" * 5000) == ["C" * 5000]


def test_what_is_missing():
    assert all(map(is_missing, (None, float("nan"), np.float32("nan"), pandas.NA, pandas.NaT, np.datetime64("NaT"))))
    assert not any(map(is_missing, (0, "", "nan", False, np.nan_to_num(0), [], MOL, np.array([np.nan, 1]))))
    assert entries(pandas.array([1, None], dtype="Int64")) == [1, pandas.NA]
    assert frame_of(["CCO"]) is None


def test_columns_and_index_of_a_frame_stay(model):
    """So that a column of predictions can be put into the frame that it is of."""
    frame = pandas.DataFrame({"id": pandas.array([7, None, 9], dtype="Int64"), "y": [1.5, 2.5, 3.5], "smiles": ["CCO", None, "CC"]})
    frame.index = [30, 10, 20]
    with Predictor(model) as predictor:
        found = predictor.predict(frame)
        made = found.to_pandas()
        assert list(made.columns) == ["id", "y", "smiles", "y (predicted)", "status"]
        pandas.testing.assert_frame_equal(made[["id", "y", "smiles"]], frame)
        frame["new"] = made["y (predicted)"]
        assert np.array_equal(frame["new"].to_numpy(), found["y"], equal_nan=True)
        assert predictor.predict(frame["smiles"]).to_pandas().index.tolist() == [30, 10, 20]
        assert predictor.predict(["CCO"]).to_pandas().index.tolist() == [0]


def test_a_predictor_can_be_sent_and_copied(model):
    """Other processes open the same model anew; threads that a closed one lost begin again."""
    predictor = Predictor(path=model, workers=0)
    expected = predictor.predict(["CCO", "CC"]).values
    for again in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        assert np.array_equal(again.predict(["CCO", "CC"]).values, expected)
    predictor.close()
    assert np.array_equal(predictor.predict(["CCO", "CC"]).values, expected)
    embedder = Embedder(model, layer=1)
    assert np.array_equal(pickle.loads(pickle.dumps(embedder))("CCO"), embedder("CCO"))


def _in_a_fork(predictor, answers) -> None:
    answers.send(predictor.predict(["CCO", "CC"]).values)
    answers.close()
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_process_has_threads_of_its_own(model):
    """It has none of its parent's, and waited for them for good."""
    with Predictor(model, workers=0) as predictor:
        expected = predictor.predict(["CCO", "CC"]).values
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(predictor, theirs))
        process.start()
        assert ours.poll(60), "no answer of the forked process"
        assert np.array_equal(ours.recv(), expected)
        process.join()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": -1}, "workers must not be negative, got -1"),
        ({"row_timeout": 0}, "row_timeout must be above 0 seconds, got 0"),
        ({"hydrogens": "yes"}, "hydrogens must be one of none, explicit, got 'yes'"),
    ],
)
def test_arguments_that_cannot_be(model, given, message):
    with pytest.raises(UserError, match=message):
        Predictor(model, **given)


@pytest.mark.parametrize("given", [["CC(=O)N"], [Chem.MolFromSmiles("CC(N)=O")]], ids=["SMILES", "molecules"])
def test_molecules_are_made_without_what_only_a_store_needs(given):
    """A key costs as much as reading the SMILES, and packing a record as much as making it."""
    incoming = taken(given)
    incoming.want(BuildOptions(), structures=False)
    [(_, made)] = encode_row(incoming, 3, next(incoming.incoming()).raw)
    assert made.key is None
    assert b"CC(" in made.record, "as it is"
    row, graph = decode(made.record)
    stored = graph_from_smiles(graph.smiles, labels=np.zeros(0), options=BuildOptions())
    assert (row, stored.key) == (3, molecule_key(Chem.MolFromSmiles("CC(=O)N")))
    assert inflate(encode(stored, 3)) == inflate(made.record)


@pytest.mark.parametrize("column", ["smiles", "ROMol"])
def test_processes_that_make_molecules_are_not_sent_the_table(column):
    """It went to each of them whole, as often as one was started."""
    rows = 2000
    frame = pandas.DataFrame({column: ["CCO" if column == "smiles" else MOL] * rows, "text": [f"remark {i}" for i in range(rows)]})
    incoming = taken(frame)
    incoming.want(BuildOptions(), structures=False)
    sent = pickle.dumps(incoming)
    assert len(sent) < 2000, "bytes: not even one for each row"
    raw = next(incoming.incoming()).raw
    assert decode(encode_row(pickle.loads(sent), 0, raw)[0][1].record)[1].smiles == "CCO"
    assert incoming.count() == rows, "here it is as it was"


def test_a_pattern_is_no_molecule(model):
    """Its atoms do not say how many hydrogens they have: a prediction as of other atoms was "ok"."""
    patterns = [Chem.MolFromSmarts(text) for text in ("CCO", "[#6]~[#8]", "[#6]")]
    with Predictor(model) as predictor:
        found = predictor.predict([*patterns, MOL, Chem.MolFromSmiles("*C")])
    assert [status.startswith("no molecule: a pattern, as Chem.MolFromSmarts makes it") for status in found.status] == [True] * 3 + [
        False
    ] * 2
    assert found.status[3:] == ["ok", "ok"]
    incoming = taken(patterns)
    incoming.want(BuildOptions(conformers=ConformerOptions(count=1)), structures=False)
    assert "a pattern" in encode_row(incoming, 0, next(incoming.incoming()).raw)[0][1].reason


def test_a_folder_is_no_smiles(tmp_path, monkeypatch):
    """The path of a store or run gave one row, "no molecule"; a folder called as a molecule hides none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CCO").mkdir()
    assert cells("CCO") == ["CCO"]
    for given in ("./CCO", str(tmp_path)):
        with pytest.raises(UserError, match="is a folder, not a file"):
            taken(given)


@pytest.mark.parametrize("call", ["predict", "predictor", "embed", "explain"])
def test_a_warning_is_at_the_line_that_asked(model, call):
    """It was at no line, "sys:1"."""
    reader = {"embed": Embedder, "explain": Explainer}.get(call, Predictor)(model)
    ask = {"predict": "predict", "explain": "explain"}.get(call, "__call__")
    with pytest.warns(UserWarning, match="does not say what it was trained on") as told:
        getattr(reader, ask)(["CCO"])
    assert {(warning.filename, warning.lineno) for warning in told} == {(__file__, told[0].lineno)}
