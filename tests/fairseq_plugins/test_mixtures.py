"""Several stores joined by ":" train as one store of all their molecules would, bit for bit."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from moleblend_fs.data.batch import collate
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.mixture import Mixture, open_sidecar, open_stores
from moleblend_fs.data.store import MANIFEST, Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.sources.sidecar import make_sidecar
from moleblend_fs.sources.sidecar_kinds import kinds
from tests.fairseq_plugins.conftest import NAN, write_graphs
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, train
from tests.model.molecules import AWKWARD, ORDINARY, graph

FIRST = [(smiles, "valid" if i % 4 == 3 else "train") for i, smiles in enumerate((*ORDINARY, *AWKWARD))]
SECOND = [(smiles, "test" if i % 5 == 4 else "train") for i, smiles in enumerate(("CCN", "CC", "CCCl", "c1ccncc1", "OCCO", "CC#N", "CCBr"))]
Y_LABEL = LabelSpec(name="y", unit="eV", kind="regression")
Z_LABEL = LabelSpec(name="z", unit="", kind="regression")
OPTIONS = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "5", "--disable-validation")


def rows(molecules, labels, *, seed=0, with_3d=True):
    """Graphs with values of some of two labels: 1 for one that a molecule has."""
    return [
        (graph(smiles, seed + row, coordinates=with_3d and row % 3 != 0, labels=[row / 2 + place for place in labels]), split)
        for row, (smiles, split) in enumerate(molecules)
    ]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store with the label y, one with z and no structures whose source had rows that failed, and one of all of it."""
    folder = tmp_path_factory.mktemp("mixture")
    behind = [2 * row + 1 for row in range(len(SECOND))]
    write_graphs(folder / "a", rows(FIRST, [1]), (Y_LABEL,))
    write_graphs(folder / "b", rows(SECOND, [3], seed=50, with_3d=False), (Z_LABEL,), source_rows=behind)
    whole = rows(FIRST, [1, 0]) + rows(SECOND, [0, 3], seed=50, with_3d=False)
    for number, (made, _) in enumerate(whole):
        made.labels[1 if number < len(FIRST) else 0] = NAN
    write_graphs(folder / "all", whole, (Y_LABEL, Z_LABEL), source_rows=[*range(len(FIRST)), *(len(FIRST) + row for row in behind)])
    return folder


def joined(folder):
    return f"{folder / 'a'}:{folder / 'b'}"


def test_a_mixture_reads_as_the_store_of_all(stores):
    mixture, whole = open_stores(joined(stores)), Store(stores / "all")
    assert isinstance(mixture, Mixture)
    assert len(mixture) == len(whole) == len(FIRST) + len(SECOND)
    np.testing.assert_array_equal(mixture.num_atoms, whole.num_atoms)
    np.testing.assert_array_equal(mixture.source_row, whole.source_row)
    assert mixture.splits == ("train", "valid", "test")
    assert {name: info.molecules for name, info in mixture.manifest.splits.items()} == {
        name: info.molecules for name, info in whole.manifest.splits.items()
    }
    for name in mixture.splits:
        np.testing.assert_array_equal(mixture.split(name), whole.split(name))
        assert mixture.manifest.splits[name] == whole.manifest.splits[name]
        for mine, theirs in zip(mixture.manifest.statistics[name], whole.manifest.statistics[name], strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert dataclasses.astuple(mine) == pytest.approx(dataclasses.astuple(theirs), rel=1e-14)
    shuffled = np.random.default_rng(0).permutation(len(whole))
    mine, theirs = collate(mixture.records(shuffled), 3), collate(whole.records(shuffled), 3)
    for name, array in theirs.to_arrays().items():
        np.testing.assert_array_equal(mine.to_arrays()[name], array, err_msg=name)
    np.testing.assert_array_equal(mixture.labels(range(len(whole))), whole.labels(range(len(whole))))
    with pytest.raises(UserError, match=f"no molecule {len(whole)}"):
        mixture.record(len(whole))
    with pytest.raises(UserError, match="no split 'dev'"):
        mixture.split("dev")


def test_training_on_a_mixture_is_training_on_the_store_of_all(stores, tmp_path):
    mixed = train(joined(stores), tmp_path / "mixed", *OPTIONS, "--max-epoch", "3")
    whole = train(stores / "all", tmp_path / "whole", *OPTIONS, "--max-epoch", "3")
    assert mixed.code == whole.code == 0, mixed.output
    for name in ("loss", "gnorm"):
        assert mixed.column("train_inner", name) == whole.column("train_inner", name)
    assert all((value == whole.weights()[name]).all() for name, value in mixed.weights().items())


def test_a_mixture_goes_on_within_an_epoch(stores, tmp_path):
    at_once = train(joined(stores), tmp_path / "once", *OPTIONS, "--max-update", "8")
    train(joined(stores), tmp_path / "twice", *OPTIONS, "--max-update", "5")
    went_on = train(joined(stores), tmp_path / "twice", *OPTIONS, "--max-update", "8")
    assert went_on.code == 0, went_on.output
    assert at_once.column("train_inner", "loss")[5:] == went_on.column("train_inner", "loss")
    other = train(f"{stores / 'b'}:{stores / 'a'}", tmp_path / "twice", *OPTIONS, "--max-update", "9")
    assert other.code == 2
    assert "other molecules" in other.output


def test_finetuning_takes_labels_of_both(stores, tmp_path):
    options = (*FINETUNE, *SMALL, *ADAM, "--batch-size", "5", "--max-update", "4", "--targets", "y,z", "--disable-validation")
    mixed, whole = (train(store, tmp_path / name, *options) for store, name in ((joined(stores), "mixed"), (stores / "all", "whole")))
    assert mixed.code == whole.code == 0, mixed.output
    losses = mixed.column("train_inner", "loss")
    assert losses == pytest.approx(whole.column("train_inner", "loss"), rel=1e-6)
    assert len(set(losses)) == 4


@pytest.mark.parametrize("name", ["descriptors", "fragments", "contexts", "automorphisms", "motifs"])
def test_sidecars_of_a_mixture(name, stores, tmp_path):
    """As that of the store of all molecules: values, their scale, vocabularies."""
    for each in ("a", "b", "all"):
        shutil.copytree(stores / each, tmp_path / each)
    with pytest.raises(UserError, match=f"has no sidecar '{name}'"):
        open_sidecar(open_stores(joined(tmp_path)), name)
    for each in ("a", "b", "all"):
        make_sidecar(Store(tmp_path / each), kinds()[name], workers=1, progress=False)
    mixture, whole = open_sidecar(open_stores(joined(tmp_path)), name), open_sidecar(Store(tmp_path / "all"), name)
    for field in ("kind", "columns", "molecules", "missing", "without", "failures", "statistics", "statistics_of", "vocabularies"):
        assert getattr(mixture.manifest, field) == getattr(whole.manifest, field), field
    indices = [len(FIRST) + 1, 0, 5, len(FIRST), 3]
    if whole.carried(indices) is not None:
        np.testing.assert_array_equal(mixture.carried(indices), whole.carried(indices))


def test_sidecars_of_other_versions_are_not_mixed(stores, tmp_path):
    for each in ("a", "b"):
        shutil.copytree(stores / each, tmp_path / each)
        make_sidecar(Store(tmp_path / each), kinds()["fragments"], workers=1, progress=False)
    place = tmp_path / "b" / "sidecars" / "fragments" / MANIFEST
    content = json.loads(place.read_text())
    content["versions"]["rdkit"] = "2019.03.4"
    place.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"85 columns, .*rdkit 2019\.03\.4"):
        open_sidecar(open_stores(joined(tmp_path)), "fragments")
    place.write_text(json.dumps(content | {"model_sha256": "ab"}))
    with pytest.raises(UserError, match=r"b/sidecars/fragments: made by another model than .*a/sidecars/fragments"):
        open_sidecar(open_stores(joined(tmp_path)), "fragments")


def test_one_path_with_a_colon_too_many(stores):
    assert not isinstance(open_stores(f"{stores / 'a'}:"), Mixture)
    with pytest.raises(UserError, match=r"no such store|not a store"):
        open_stores(":")


def test_what_cannot_be_mixed(stores, tmp_path):
    a, b = stores / "a", stores / "b"
    with pytest.raises(UserError, match="the same molecules"):
        open_stores(f"{a}:{b}:{a}")
    with pytest.raises(UserError, match="nowhere: no such store"):
        open_stores(f"{a}:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="it holds rows of one store"):
        open_stores(f"{a}:{b}", "splits.json")
    write_graphs(tmp_path / "unit", rows(SECOND, [1]), (LabelSpec(name="y", unit="kcal/mol", kind="regression"),))
    with pytest.raises(UserError, match=r"label 'y' is a regression in eV .* in kcal/mol"):
        open_stores(f"{a}:{tmp_path / 'unit'}")
    made = []
    for name, hydrogens, place in (("h", "explicit", a), ("heavy", "none", b)):
        shutil.copytree(place, tmp_path / name)
        content = json.loads((tmp_path / name / MANIFEST).read_text())
        content["options"]["hydrogens"] = hydrogens
        (tmp_path / name / MANIFEST).write_text(json.dumps(content))
        made.append(str(tmp_path / name))
    with pytest.raises(UserError, match=r"different hydrogens .*h: explicit; .*heavy: none"):
        open_stores(":".join(made))
    assert TrainedOn.of(open_stores(f"{made[0]}:{b}").manifest).hydrogens == "explicit", "known of one of them"


def test_a_store_whose_path_holds_a_colon_is_one_store(stores, tmp_path):
    shutil.copytree(stores / "a", tmp_path / "x:y")
    store = open_stores(str(tmp_path / "x:y"))
    assert not isinstance(store, Mixture)
    assert len(store) == len(FIRST)
