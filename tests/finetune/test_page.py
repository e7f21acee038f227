"""The page of a run: all its sections, in a browser, and what it says of molecules that splits have in common."""

import csv
import json
import re

import numpy as np
import pytest

from moleblend_fs.comparison.run_folders import test_predictions as predictions_of
from moleblend_fs.data.split_file import open_store
from moleblend_fs.finetune import split_similarity
from moleblend_fs.finetune.data import prepare
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.finetune.split_similarity import nearest, overlap
from moleblend_fs.report.finetune_page import results, write_page
from moleblend_fs.report.result_files import Evaluation
from moleblend_fs.report.similarity_sections import Nearest, Shared, applicability
from tests.finetune.conftest import ESOL, QUICK
from tests.report.layout import CHROMIUM, measured

LONG = "a_target_whose_name_goes_on_and_on_and_on_without_a_blank_until_no_axis_has_room_for_it"


def headings(page: str) -> list[str]:
    return [part.split("</h2>")[0] for part in page.split("<h2>")[1:]]


def test_the_page_has_all_sections(finetuned):
    page = (finetuned.out / "report.html").read_text()
    found = headings(page)
    expected = ["Results", "Parity", "Residuals", "Intervals", "Applicability", "Ten worst molecules", "Learning curves", "Settings"]
    assert found[:8] == expected
    assert found[8:10] == ["Leakage between splits", "Run"]
    assert "No molecule of a split that is scored was trained on." in page
    assert "One molecule as the model sees it" not in page, "nothing was blended"
    assert "{&#x27;" not in page, "no dicts of Python"


def classes(folder, count: int = 60, column: str = "smiles", words: tuple[str, str] = ("0", "1")):
    """Files of a run of classes, without its members; `words` are the labels of classes 0 and 1. Labels and probabilities."""
    rng = np.random.default_rng(0)
    truth = (rng.random(count) < 0.4).astype(int)
    said = np.clip(0.3 * truth + 0.6 * rng.random(count), 0, 1)
    score = {name: {"value": 0.8, "low": 0.7, "high": 0.9} for name in ("roc_auc", "pr_auc")}
    metrics = {"kind": "classification", "targets": {LONG: {"kind": "classification", "unit": ""}}, "score": "roc_auc", "level": 0.9}
    metrics |= {"models": {"moleblend": {LONG: score, "mean": score}}, "best": "moleblend", "first_line": "test roc_auc 0.8"}
    metrics |= {"molecules": {"fold0": {"train": 9, "valid": 9, "test": count}}}
    model = {"data": {"a.csv": "sha256:" + "f" * 64}, "inputs": "2d", "hydrogens": "none", "members": [], "version_of_moleblend_fs": "0"}
    for name, content in (("metrics", metrics), ("model", model), ("splits", {"folds": {}, "about": {"kind": "random", "seed": 0}})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    lines = [f"{'C' * (i % 40 + 1)}N,{words[t]},{p:.4f},{i},fold0,test,ok" for i, (t, p) in enumerate(zip(truth, said, strict=True))]
    text = f"{column},{LONG},{LONG} (predicted),row,fold,split,status\n" + "\n".join(lines) + "\n"
    for name in ("test", "oof"):
        (folder / f"predictions_{name}.csv").write_text(text)
    return truth, said.round(4)


def test_what_scores_are_of_is_told():
    """The mean over targets left out those that do not define a score, under the heading of all; nothing said of how many molecules."""
    values = {"a": 0.8, "b": None, "mean": 0.8}
    scores = {name: {"roc_auc": {"value": value}, "log_loss": {"value": 0.5}} for name, value in values.items()}
    targets = {name: {"kind": "classification", "unit": "", "tested": 30, "of_class_1": ones} for name, ones in (("a", 7), ("b", 0))}
    page = results({"targets": targets, "models": {"moleblend": scores}, "best": "moleblend"})
    assert "Mean over 2 targets" in page
    assert page.count("Without b, whose test molecules do not define it: roc_auc.") == 1
    assert ["30 test molecules, 7 of class 1." in page, "30 test molecules, 0 of class 1." in page] == [True, True]


def test_probabilities_that_are_not_calibrated_are_named(tmp_path):
    classes(tmp_path)
    write_page(tmp_path)
    assert "Calibration of probabilities" not in (tmp_path / "report.html").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text()) | {"not_calibrated": [LONG]}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    write_page(tmp_path)
    assert f"Probabilities of {LONG} are as the models give them: there are too few validation" in (tmp_path / "report.html").read_text()


def test_labels_that_are_words_and_a_column_of_smiles_of_any_name(tmp_path):
    """They are in the pictures, and compared, like labels of 0 and 1."""
    truth, said = classes(tmp_path, 30, column="what it is", words=("No", "yes"))
    table = [line.rsplit(",", 5)[0] for line in (tmp_path / "predictions_test.csv").read_text().splitlines()]
    (tmp_path / "mine.csv").write_text("\n".join(table) + "\n")
    settings = Settings(targets=(LONG,), kind="classification", smiles_column="what it is")
    prepare(tmp_path / "mine.csv", settings, tmp_path, "none", workers=1, progress=False)
    write_page(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert headings(page)[:3] == ["Results", "ROC, precision and calibration", "Ten worst molecules"]
    assert page.count("class='molecule'") + page.count('class="molecule"') == 10
    assert "no picture of it" not in page
    worst = int(np.argmax(-np.log(np.where(truth, said, 1 - said).clip(1e-12))))
    assert f"{'C' * (worst % 40 + 1)}N (row {worst})" in page
    [(rows, labels, predicted)] = [zip(*lines, strict=True) for lines in predictions_of(tmp_path / "predictions_test.csv", [LONG]).values()]
    assert [*map(int, rows)] == [*range(30)]
    assert np.array_equal(np.ravel(labels), truth)
    assert np.array_equal(np.ravel(predicted), said)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")
def test_pages_in_a_browser(finetuned, tmp_path):
    classes(tmp_path)
    write_page(tmp_path, None, [Shared("fold0", "test, in train", 60, 1, 2)])
    page = (tmp_path / "report.html").read_text()
    assert headings(page) == ["Results", "ROC, precision and calibration", "Ten worst molecules", "Leakage between splits", "Run"]
    assert "Molecules that are in two splits make scores look better" in page
    for text, pictures in ((page, 13), ((finetuned.out / "report.html").read_text(), 6)):
        for found in measured(text, tmp_path):
            assert found["faults"] == [], found["width"]
            assert found["counts"]["pictures"] >= pictures


def test_what_splits_have_in_common_is_counted(finetuned, tmp_path):
    molecules = ["CCO,train", "C[C@H](N)O,train", "CCCl,train", "CCCC,valid", "OCC,test", "C[C@@H](N)O,test", "CCBr,test"]
    lines = [f"{line},{i}.5" for i, line in enumerate(molecules)]
    (tmp_path / "leaky.csv").write_text("smiles,part,y\n" + "\n".join(lines) + "\n")
    settings = Settings(targets=("y",), split="column", split_column="part")
    store = prepare(tmp_path / "leaky.csv", settings, tmp_path / "run", "none", workers=1, progress=False).store
    counted = {pair: numbers for _, pair, *numbers in overlap(store, {"fold0": store})}
    assert counted == {"test, in train": [3, 1, 2], "test, in valid": [3, 0, 0], "valid, in train": [1, 0, 0]}
    lines = "".join(f"1,{row},fold0,test,ok\n" for row in (6, 4, 9))
    (tmp_path / "predictions_test.csv").write_text(f"y (predicted),row,fold,split,status\n{lines}")
    near = nearest(tmp_path, store, {"fold0": store}, ["y"])
    assert near is not None
    assert near[1].similarity == 1, "ethanol is among those that were trained on"
    assert 0 < near[0].similarity < 1
    assert np.isnan(near[2].similarity)
    clean = open_store(finetuned.out / "store", finetuned.out / "splits.json", "fold0")
    assert [same for *_, same, _ in overlap(clean, {"fold0": clean})] == [0, 0, 0]


def test_repeats_do_not_make_more_molecules(tmp_path):
    """Each is counted once, and one of the worst once, however many repeats test it."""
    (tmp_path / "t.csv").write_text("smiles,logS\n" + ESOL)
    settings = Settings(**QUICK, weights="none", targets=("logS",), split="random", repeats=2, fractions=(0.4, 0.1, 0.5))
    out = finetune(tmp_path / "t.csv", tmp_path / "run", settings).out
    with (out / "predictions_test.csv").open() as stream:
        rows = [line["row"] for line in csv.DictReader(stream)]
    different = len(set(rows))
    assert different < len(rows) == 24
    assert json.loads((out / "metrics.json").read_text())["targets"]["logS"]["tested"] == different
    page = (out / "report.html").read_text()
    assert f"{different} test molecules." in page
    assert f"<figcaption>test, {different} molecules, 24 predictions</figcaption>" in page
    worst = re.findall(r"\(row (\d+)\)</code>", page)
    assert len(worst) == len(set(worst)) == min(10, different)


def test_the_table_of_applicability_has_all_targets():
    names = [f"t{i}" for i in range(14)]
    values = np.arange(28.0).reshape(2, 14)
    about = {"units": {}, "target": values, "prediction": values + 1, "rows": ["0", "1"]}
    seen = Evaluation(name="", store="", split="test", metrics={name: {"rmse": 1.0} for name in names}, baseline={}, **about)
    [section] = applicability(seen, [Nearest(0.5, True), Nearest(0.7, False)])
    assert "The first 12 of 14 targets are drawn." in section
    assert section.count("<figure>") == 12
    assert all(f"<td>{name}</td>" in section for name in names)


def test_skeletons_of_molecules_that_inchi_cannot_express(tmp_path):
    """The first letters of their SMILES stood for them: all methacrylates had one skeleton, and one that is written otherwise another."""
    acids = ("*CC(C)(*)C(=O)OC,train", "*CC(C)(*)C(=O)OCC,train", "*CC(C)(*)C(=O)OCC=C,valid")
    polymers = [*acids, "*CC(C)(*)C(=O)OC1CC1,test", "CCOC(=O)C(*)(C)C*,test"]
    (tmp_path / "polymers.csv").write_text("smiles,part,y\n" + "".join(f"{line},{i}.5\n" for i, line in enumerate(polymers)))
    settings = Settings(targets=("y",), split="column", split_column="part")
    store = prepare(tmp_path / "polymers.csv", settings, tmp_path / "run", "none", workers=1, progress=False).store
    counted = {pair: numbers for _, pair, *numbers in overlap(store, {"fold0": store})}
    assert counted == {"test, in train": [2, 1, 1], "test, in valid": [2, 0, 0], "valid, in train": [1, 0, 0]}


def test_it_is_told_where_splits_are_not_compared(finetuned, tmp_path, monkeypatch):
    """Of many molecules: two sections were missing without a word."""
    store = open_store(finetuned.out / "store", finetuned.out / "splits.json", "fold0")
    assert split_similarity.left_out(store) == ""
    monkeypatch.setattr(split_similarity, "MOST", 23)
    assert overlap(store, {"fold0": store}) == ()
    classes(tmp_path)
    write_page(tmp_path, None, (), ("", ()), split_similarity.left_out(store))
    page = (tmp_path / "report.html").read_text()
    assert headings(page)[-2:] == ["Leakage between splits", "Run"]
    assert f"of {len(store)} molecules, more than 23, it would take long" in page
