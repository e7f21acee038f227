"""Finetuning from Python, and as scikit-learn's estimators."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from rdkit import Chem
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from moleblend_fs import Finetuner, MoleBlendClassifier, MoleBlendRegressor, Predictor
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.estimators import values_of
from tests.finetune.conftest import ESOL

SMILES, VALUES = zip(*(line.rsplit(",", 1) for line in ESOL.strip().splitlines()), strict=True)
Y = np.array([float(value) for value in VALUES])
QUICK = {"epochs": 1, "batch_size": 8, "weights": "none"}
CHECKS = (
    "check_get_params_invariance",
    "check_set_params",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_mixin_order",
    "check_valid_tag_types",
)
"""scikit-learn's checks that do not hand over numbers in place of molecules."""


@pytest.mark.parametrize("kind", [MoleBlendRegressor, MoleBlendClassifier])
@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_checks(kind, name):
    getattr(estimator_checks, name)(kind.__name__, kind())


@pytest.fixture(scope="module")
def regressor():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted = MoleBlendRegressor(**QUICK, seed=3).fit(list(SMILES), Y)
    assert not [each for each in said if each.category is ResourceWarning], "temporary folders are removed, not forgotten"
    return fitted


def test_a_regressor_is_pickled_with_its_models(regressor):
    expected = regressor.predict(list(SMILES))
    assert expected.shape == (len(SMILES),)
    assert np.array_equal(pickle.loads(pickle.dumps(regressor)).predict(np.array(SMILES, dtype=object)[:, None]), expected)
    # Atoms may come in another order from RDKit's molecules: sums differ by rounding.
    assert regressor.predict([Chem.MolFromSmiles(text) for text in SMILES]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    with pytest.warns(UserWarning, match="1 molecule has no prediction"):
        found = regressor.predict(["CCO", "C1CC"])
    assert np.isfinite(found).tolist() == [True, False]


def test_what_is_not_fitted_or_no_molecules_is_told(regressor):
    with pytest.raises(NotFittedError):
        clone(regressor).predict(["CCO"])
    with pytest.raises(UserError, match="one column"):
        regressor.predict(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="24 molecules and y 3 values"):
        MoleBlendRegressor(**QUICK).fit(list(SMILES), Y[:3])
    with pytest.raises(ValueError, match="two classes are needed, got 3"):
        MoleBlendClassifier(**QUICK).fit(list(SMILES), np.arange(24) % 3)
    with pytest.raises(UserError, match="no setting 'epoch'"):
        Finetuner(epoch=3)
    with pytest.raises(UserError, match=r"no molecule could be read \(24 failures\); the first is row 0, RDKit: syntax error"):
        MoleBlendRegressor(**QUICK).fit(["xx"] * 24, Y)


def test_messages_about_molecules_in_memory_name_no_file_of_ours():
    with pytest.raises(UserError, match=r"^the molecules: --target: no column 'logS'; there are: y"):
        Finetuner("logS").fit({"smiles": SMILES, "y": Y})
    with pytest.raises(UserError, match=r"give y, or a table with SMILES and logS$"):
        Finetuner("logS").fit(list(SMILES))


def test_a_finetuner_without_a_folder_learns_anew_from_other_values():
    """In its temporary folder; a folder of the user's is not given up."""
    finetuner = Finetuner(**QUICK, split="random", ensemble=1).fit(list(SMILES), Y)
    before = finetuner.predict(["CCO"])["y"]
    assert np.array_equal(finetuner.fit(list(SMILES), Y).predict(["CCO"])["y"], before)
    after = finetuner.fit(list(SMILES), Y + 100).predict(["CCO"])["y"]
    assert after == pytest.approx(before + 100, abs=5)


def test_a_classifier_in_a_pipeline_under_cross_validation():
    """Class names are the user's; the score of every fold is a number."""
    names = np.where(np.arange(24) % 2, "toxic", "harmless")
    pipeline = make_pipeline(FunctionTransformer(lambda smiles: [text.strip() for text in smiles]), MoleBlendClassifier(**QUICK))
    scores = cross_val_score(pipeline, np.array(SMILES, dtype=object), names, cv=2, error_score="raise")
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_frame_to_a_folder_and_predictions(tmp_path, monkeypatch):
    """The folder is what the command writes, for the same data; its predictor gives the estimator's numbers."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": range(24), "smiles": SMILES, "logS": Y})
    monkeypatch.chdir(tmp_path)
    finetuner = Finetuner("logS", out="run", ensemble=1, split="random", **QUICK).fit(frame)
    monkeypatch.chdir("/")
    header = (tmp_path / "run" / "predictions_test.csv").read_text().splitlines()[0]
    assert header.startswith("id,smiles,logS,logS (predicted)")
    assert finetuner.metrics_["best"] in finetuner.metrics_["models"]
    found = finetuner.predict(frame)
    assert np.array_equal(found["logS"], Predictor(tmp_path / "run").predict(frame)["logS"])
    with pytest.raises(UserError, match=r"has a run of other arguments .data: another file"):
        finetuner.fit(frame.assign(logS=Y + 100))


def test_missing_values_of_any_kind_are_nan():
    pandas = pytest.importorskip("pandas")
    expected = [1.0, np.nan, 2.5]
    for missing in (None, np.nan, pandas.NA, pandas.NaT):
        for given in ([1, missing, 2.5], pandas.Series([1, missing, 2.5], dtype=object), np.array([[1], [missing], [2.5]], dtype=object)):
            assert np.array_equal(values_of(given).ravel(), expected, equal_nan=True)
    with pytest.raises(ValueError, match="could not convert string to float: 'a'"):
        values_of([pandas.NA, "a"])


def test_a_finetuner_is_pickled_with_its_temporary_folder():
    """That lasts as long as the object it belongs to: another process, or later day, has the files from the pickle."""
    finetuner = Finetuner(ensemble=1, split="random", **QUICK).fit(list(SMILES), Y)
    expected, folder, content = finetuner.predict(list(SMILES)).values, finetuner.out, pickle.dumps(finetuner)
    del finetuner
    assert not folder.exists()
    again = pickle.loads(content)
    assert np.array_equal(again.predict(list(SMILES)).values, expected)
    assert again.outcome_.out == again.out
    assert (again.out / "report.html").is_file()
    new = copy.deepcopy(Finetuner(**QUICK))
    with pytest.raises(NotFittedError):
        new.predict(["CCO"])
