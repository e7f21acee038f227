"""`moleblend report`: reading real log lines of fairseq and results of `evaluate`, and the page made of them."""

import json
import logging
import math
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from fairseq.logging import progress_bar
from rdkit import Chem

from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.cli.main import main
from moleblend_fs.data.batch import collate
from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.writer import StoreWriter
from moleblend_fs.objectives.blend_then_predict import BlendConfig, BlendThenPredict, draw_blend
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from moleblend_fs.report.blend import cell_texts, choices
from moleblend_fs.report.results import result_rows
from moleblend_fs.report.runs import Runs, find_runs
from moleblend_fs.report.settings import pictured_objective, read_settings, shown_settings
from moleblend_fs.report.training_logs import read_log
from moleblend_fs.sources.sidecar import make_sidecar
from moleblend_fs.sources.sidecar_kinds import kinds
from tests.fairseq_plugins.conftest import write_graphs
from tests.model.molecules import graph

EPOCHS, UPDATES = 3, 6
CONFIGURATION = (
    "{'_name': None, 'common': {'_name': None, 'seed': 7, 'user_dir': '/a/{odd}/path'}, 'dataset': {'_name': None, 'batch_size': 64}, "
    "'checkpoint': {'_name': None, 'finetune_from_model': None}, 'task': {'_name': 'moleblend', 'data': 'gone', "
    "'objective': blend_then_predict, 'blend_ratio': [0.5, 0.3, 0.2], 'mask_ratio': 0.1, 'noise_scale': 0.2}, "
    "'criterion': {'_name': 'blend_then_predict', 'seed': 7}, 'optimization': {'_name': None, 'max_update': 18, 'lr': [0.002]}, "
    "'optimizer': {'_name': 'adam', 'adam_betas': '(0.9, 0.999)', 'lr': [0.002]}}"
)
"""What fairseq-train writes of a pretraining run, shortened; enumerations stand there without quotes."""


def write_log(path, losses) -> None:
    """A log as fairseq-train writes it: a new progress bar, with its own file handler, at each epoch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = list(progress_bar.logger.handlers)
    progress_bar.logger.setLevel("INFO")
    for epoch in range(1, EPOCHS + 1):
        bar = progress_bar.progress_bar(range(UPDATES), log_format="json", log_interval=2, log_file=str(path), epoch=epoch)
        progress_bar.logger.info("begin training epoch {not json")
        if "spd_loss" in losses and epoch == 1:
            progress_bar.logger.info(CONFIGURATION)
        for step, _ in enumerate(bar):
            done = (epoch - 1) * UPDATES + step + 1
            bar.log({name: loss(done) for name, loss in losses.items()} | {"num_updates": done}, tag="train_inner", step=done)
        bar.print({name: loss(done) for name, loss in losses.items()} | {"num_updates": done}, tag="valid", step=done)
    for handler in [h for h in progress_bar.logger.handlers if h not in before]:
        progress_bar.logger.removeHandler(handler)
        handler.close()


def write_result(path, store, prediction, target) -> None:
    mae = float(np.abs(prediction - target).mean())
    rows = [{"id": i, "smiles": "C", "target": [t], "prediction": [p]} for i, (t, p) in enumerate(zip(target, prediction, strict=True))]
    rows[0]["target"] = [None]
    result = {"checkpoint": "x.pt", "store": str(store), "split": "test", "predictions": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"metrics": {"gap": {"mae": mae}}, "baseline": {"gap": {"mae": 1234.5}}}))


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "runs" / "data"
    mol = Chem.MolFromSmiles("CC(=O)NC1CC1")
    xyz = np.random.default_rng(0).normal(size=(1, mol.GetNumAtoms(), 3)) * 2
    graph = graph_from_mol(mol, smiles="CC(=O)NC1CC1", labels=np.array([1.0]), coordinates=xyz)
    with StoreWriter(path, {}) as writer:
        writer.add([(row, EncodedMolecule.from_graph(graph, row)) for row in range(3)], next_row=3)
        spec = (LabelSpec(name="gap", unit="meV", kind="regression"),)
        writer.finish(source="smiles", options={}, inputs={}, labels=spec, splitter=Splitter(kind="none"), versions={})
    return path


@pytest.fixture
def runs(tmp_path, store):
    folder = tmp_path / "runs"
    losses = {"loss": lambda u: 4 / u, "spd_loss": lambda u: 2 / u, "spd_information": lambda u: 2 - 2 / u}
    write_log(folder / "pretrain" / "train.log", losses | {"edge_loss": lambda u: 1 / u, "displacement_loss": lambda u: 0.5})
    target = np.linspace(5000, 8000, 40)
    for inputs in ("2d", "2d+3d"):
        for variant, error in (("scratch", 300.0), ("pretrained", 150.0)):
            run = folder / f"gap_{inputs}_{variant}"
            write_log(run / "train.log", {"loss": lambda u: 1 / u, "mae": lambda u, e=error: e + 100 / u})
            write_result(run / "test.json", store, target + error, target)
    return folder


def test_log_gives_each_update_once(runs):
    log = read_log(runs / "pretrain" / "train.log", runs)
    lines = (runs / "pretrain" / "train.log").read_text().splitlines()
    assert len(lines) > len(set(lines)), "the trap that this guards against: fairseq repeats lines from the second epoch on"
    updates, values = log.train["spd_loss"]
    assert updates.tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    np.testing.assert_allclose(values, 2 / updates, rtol=1e-5)
    assert log.valid["spd_loss"][0].tolist() == [6, 12, 18]
    assert log.name == "pretrain"


def test_two_logs_of_one_run_are_one_curve(runs, tmp_path, capsys):
    """A run writes its folder's details.log beside the file that --log-file names; either may end earlier."""
    run = runs / "pretrain"
    whole = (run / "train.log").read_text().splitlines(keepends=True)
    (run / "details.log").write_text("".join(whole[: len(whole) // 2]))
    found = find_runs(runs)
    assert [log.name for log in found.logs].count("pretrain") == 1
    alone = read_log(run / "train.log", runs)
    (log,) = [log for log in found.logs if log.name == "pretrain"]
    assert {name: [list(part) for part in curve] for name, curve in log.train.items()} == {
        name: [list(part) for part in curve] for name, curve in alone.train.items()
    }
    assert main(["report", str(runs), "--output", str(tmp_path / "report.html")]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_different_logs_of_one_folder_are_named_by_their_files(runs):
    write_log(runs / "pretrain" / "first.log", {"loss": lambda u: 7 + u})
    assert {"pretrain", "pretrain/train"} <= {log.name for log in find_runs(runs).logs}


def test_variants_stand_side_by_side(runs):
    header, rows = result_rows(find_runs(runs).evaluations)
    assert header == ["run", "split", "target", "metric", "unit", "mean predictor", "scratch", "pretrained"]
    assert rows == [[f"gap_{i}", "test", "gap", "MAE", "meV", "1,234.5", "300.0", "150.0"] for i in ("2d", "2d+3d")]


def test_seeds_are_averaged_and_many_targets_too(tmp_path):
    """Two seeds with ROC-AUC 0.6 and 0.8, each the average over the three of four tasks for which it is defined."""
    for seed, value in ((0, 0.6), (1, 0.8)):
        metrics = {name: {"roc_auc": score} for name, score in zip("abcd", (value, value - 0.1, value + 0.1, None), strict=True)}
        result = {"store": "gone", "split": "test", "metrics": metrics, "units": dict.fromkeys("abcd", ""), "predictions": []}
        (tmp_path / f"seed{seed}_scratch").mkdir()
        (tmp_path / f"seed{seed}_scratch" / "test.json").write_text(json.dumps(result))
    _, rows = result_rows(find_runs(tmp_path).evaluations)
    expected = {"seed0": "0.6000", "seed1": "0.8000", "all seeds": "0.7000 \u00b1 0.1000"}
    assert rows == [[name, "test", "average of 3", "ROC-AUC", value] for name, value in expected.items()]
    page = tmp_path / "x.html"
    assert main(["report", str(tmp_path), "--output", str(page)]) == 0
    assert page.read_text().count("After \u00b1 the standard deviation over seeds (population).") == 1


def test_page_is_self_contained_and_has_every_part(runs, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["report", str(runs), "--output", str(page), "--title", "A title"]) == 0
    assert "150.0" in capsys.readouterr().out
    text = page.read_text()
    for title in ("A title", "Results", "Pretraining", "Finetuning", "Parity", "One molecule as the model sees it"):
        assert f">{title}<" in text
    for title in ("Residuals", "Ten worst molecules", "Settings", "Leakage between splits"):
        assert f">{title}<" in text
    for label in ("Shortest path distance", "Edges along the path", "3D displacement", "gap, true (meV)", "MAE (meV)", "updates"):
        assert label in text
    assert "standard deviation over seeds" not in text
    assert "150.0 (150.0 to 150.0)" in text  # all errors are equal, and so are those of all resamples
    assert "0.5, 0.3, 0.2, and none with probability 0.1" in text
    assert text.count("<title>C (row ") == 2 * 4 * 39  # a point of each panel for each molecule with a label
    assert not re.search(r"<(script|link|img|iframe)\b", text)
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    # Losses; score and two losses; parity and residuals of four; ten molecules of three; the blended one.
    assert len(pictures) == 3 + 3 + 2 * 4 + 3 * 10 + 1
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert re.match(r'<svg role="img" aria-label="[^"]', picture)
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))


def test_matrix_shows_the_draw_of_training(store):
    """Same seed, epoch and molecule: the picture is made of the bits that the model gets, alone or among other molecules."""
    records = Store(store).records([0, 1, 2])
    batch = collate(records)
    shown, _ = draw_blend(batch, Layout(batch.num_atoms, "cpu"), BlendConfig(), seed=5, epoch=2)
    n = int(batch.num_atoms[0])
    relations = shown.relations.view(3, n, n)
    matrices = [torch.from_numpy(choices(record, BlendThenPredict(BlendConfig()), seed=5, epoch=2)[0]) for record in records]
    for matrix, expected in zip(matrices, relations, strict=True):
        assert torch.equal(torch.tensor([SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE])[matrix], expected.long())
    assert not torch.equal(matrices[0], matrices[1])


def test_cells_say_what_a_pair_shows():
    mol = Chem.MolFromSmiles("CC=O.[Na+]")
    xyz = np.array([[[0, 0, 0], [0, 0, 1.5], [3.0, 0, 4.0], [9, 9, 9]]])
    graph = graph_from_mol(mol, smiles="CC=O.[Na+]", labels=np.zeros(0))
    graph.coordinates = xyz.astype(np.float32)  # round distances, which no molecule has
    spd, edge, distance, nothing = (cell_texts(graph, np.full((4, 4), kind)) for kind in range(4))
    assert (spd[0][2], spd[0][3]) == ("2", "\u221e")
    assert (edge[0][2], edge[2][0], edge[0][3]) == ("\u2013=", "=\u2013", "")
    assert distance[0][2] == "5.0"
    assert nothing[0][2] == ""


def test_missing_targets_are_nan(runs):
    evaluation = find_runs(runs).evaluations[0]
    assert math.isnan(evaluation.target[0, 0])
    assert evaluation.target.shape == evaluation.prediction.shape == (40, 1)


@pytest.mark.parametrize(
    "arguments", [["{tmp}/absent"], ["{tmp}/empty"], ["{runs}", "--molecule", "77"], ["{runs}", "--store", "{tmp}/empty"]]
)
def test_mistakes_give_a_message_and_exit_code_2(runs, tmp_path, arguments, capsys):
    (tmp_path / "empty").mkdir()
    filled = [argument.format(tmp=tmp_path, runs=runs) for argument in arguments]
    assert main(["report", *filled, "--output", str(tmp_path / "x.html")]) == 2
    assert capsys.readouterr().err.startswith("moleblend report: ")
    assert not (tmp_path / "x.html").exists()


def test_only_pretraining_by_blending_is_pictured(runs, tmp_path, capsys):
    """Without such a run, or with a log that does not tell how it blended, there are no ratios to show."""
    page = tmp_path / "x.html"
    log = runs / "pretrain" / "train.log"
    log.write_text(log.read_text().replace("'objective': blend_then_predict", "'objective': denoise"))
    assert main(["report", str(runs), "--output", str(page)]) == 0
    assert "as the model sees it" not in page.read_text()
    assert main(["report", str(runs), "--molecule", "0", "--output", str(page)]) == 2
    assert "no log in" in capsys.readouterr().err


def test_settings_are_those_of_the_log():
    settings = read_settings(f"2026-11-26 | INFO | fairseq_cli.train | {CONFIGURATION}\n")
    shown = {
        "common.seed": "7",
        "common.user_dir": "/a/{odd}/path",
        "task.objective": "blend_then_predict",
        "optimizer.adam_betas": "(0.9, 0.999)",
    }
    assert shown.items() <= settings.items()
    options = pictured_objective(settings).options
    assert (options.blend_ratio, options.mask_ratio) == ((0.5, 0.3, 0.2), 0.1)
    assert pictured_objective(settings | {"task._name": "moleblend_finetune"}) is None
    assert pictured_objective({}) is None
    assert read_settings("2026 | INFO | valid | {}") == {}
    header, [row] = shown_settings([("a", settings), ("b", {})])
    assert dict(zip(header, row, strict=True))["learning rate"] == "0.002"


@pytest.mark.parametrize("form", ["simple", "tqdm"])
def test_curves_are_read_from_plain_logs(tmp_path, form):
    """Lines as fairseq's own progress bars write them; tqdm's within an epoch go to the terminal alone."""
    path = tmp_path / "run" / "details.log"
    path.parent.mkdir()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s"))
    progress_bar.logger.setLevel("INFO")
    progress_bar.logger.addHandler(handler)
    try:
        for epoch in (1, 2):
            bar = progress_bar.progress_bar(range(UPDATES), log_format=form, log_interval=2, epoch=epoch)
            for step, _ in enumerate(bar):
                done = (epoch - 1) * UPDATES + step + 1
                bar.log({"loss": 4 / done, "num_updates": done}, tag="train_inner", step=done)
            bar.print({"loss": 5.0, "num_updates": done}, tag="train", step=done)
            bar = progress_bar.progress_bar([], log_format=form, epoch=epoch, prefix="valid on 'valid' subset")
            bar.print({"loss": 1 / done, "mae": 2.0, "num_updates": done}, tag="valid", step=done)
    finally:
        progress_bar.logger.removeHandler(handler)
        handler.close()
    [log] = find_runs(tmp_path).logs
    assert log.valid["loss"][0].tolist() == [6, 12]
    np.testing.assert_allclose(log.valid["loss"][1], [1 / 6, 1 / 12], atol=1e-3)
    assert log.valid["mae"][1].tolist() == [2, 2]
    if form == "simple":
        np.testing.assert_allclose(log.train["loss"][1], 4 / log.train["loss"][0], atol=1e-3)
        assert log.train["loss"][0].tolist() == [2, 4, 6, 8, 10, 12]


def test_short_runs_have_the_means_of_their_epochs(tmp_path):
    """A run that ended before its first log interval had no curve of its training; and classes the loss of values."""
    configuration = CONFIGURATION.replace("'objective'", "'regression_loss': 'mse', 'objective'")
    (tmp_path / "train.log").write_text(
        f"{configuration}\n"
        '{"epoch": 1, "train_loss": "0.7", "train_num_updates": "20"}\n{"epoch": 1, "valid_roc_auc": "0.6", "valid_num_updates": "20"}\n'
        '{"epoch": 2, "train_loss": "0.6", "train_num_updates": "40"}\n{"epoch": 2, "valid_roc_auc": "0.7", "valid_num_updates": "40"}\n'
    )
    log = read_log(tmp_path / "train.log", tmp_path)
    assert [values.tolist() for values in log.train["loss"]] == [[20, 40], [0.7, 0.6]]
    assert "task.regression_loss" not in log.settings
    assert log.settings["common.seed"] == "7"
    with (tmp_path / "train.log").open("a") as stream:
        stream.write('{"epoch": 2, "loss": "0.65", "num_updates": "30"}\n')
    assert read_log(tmp_path / "train.log", tmp_path).train["loss"][0].tolist() == [30]


def test_a_run_without_curves_is_told(runs, tmp_path):
    """The file of details, which every run has, is none of those that should hold a curve."""
    for name, file in (("quiet", "train.log"), ("mute", None), ("shown", "details.log")):
        (runs / name).mkdir()
        (runs / name / "checkpoint_best.pt").write_bytes(b"x")
        if file is not None:
            (runs / name / file).write_text("INFO | nothing of interest\n")
    mute, shown = (
        f"{runs / name}: no curves are shown: there is no log of the run (*.log, *.jsonl); trained with "
        f"--log-file {runs / name / 'train.log'} it is kept"
        for name in ("mute", "shown")
    )
    assert find_runs(runs).notes == [mute, f"{runs / 'quiet' / 'train.log'}: holds no curve of a training run", shown]


def test_classes_have_curves_calibration_and_the_predictor_that_knows_nothing(tmp_path):
    rng = np.random.default_rng(0)
    truth = (rng.random((60, 4)) < 0.25).astype(float)
    truth[:, 3] = 0  # one class alone: no curve
    said = np.clip(0.4 * truth + 0.5 * rng.random((60, 4)), 0, 1)
    names = ["a", "b", "c <odd & long name that has no room anywhere at all>", "d"]
    metrics = {name: {"roc_auc": None if name == "d" else 0.8, "pr_auc": None if name == "d" else 0.7} for name in names}
    rows = [
        {"id": i, "smiles": "C" * (i % 9 + 1), "target": t, "prediction": p} for i, (t, p) in enumerate(zip(truth.tolist(), said.tolist()))
    ]
    result = {
        "store": "gone",
        "split": "test",
        "split_sha256": "ab" * 32,
        "kind": "classification",
        "metrics": metrics,
        "predictions": rows,
    }
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "test.json").write_text(json.dumps(result))
    [evaluation] = find_runs(tmp_path / "runs").evaluations
    _, table = result_rows([evaluation])
    assert [row[3:] for row in table] == [["ROC-AUC", "0.5000", "0.8000"], ["PR-AUC", f"{truth[:, :3].mean():.4f}", "0.7000"]]
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "x.html")]) == 0
    page = (tmp_path / "x.html").read_text()
    assert page.count('aria-label="ROC curve of ') == page.count('aria-label="calibration of ') == 3
    assert "abababababab<" in page
    assert "ab" * 32 not in page


def test_a_sidecar_is_no_store(tmp_path):
    """Its manifest has the store's name for one, and lies below the store."""
    store = write_graphs(tmp_path / "runs" / "data", [(graph(smiles, row), "train") for row, smiles in enumerate(("CCO", "CCN"))], ())
    make_sidecar(store, kinds()["fragments"], workers=1, progress=False)
    named_so = tmp_path / "runs" / "sidecars" / "mine"
    shutil.copytree(store.path, named_so)
    runs = Runs(folder=tmp_path / "runs", logs=[], evaluations=[])
    assert sorted(runs.stores) == sorted([store.path, named_so]), "but a store in a folder of that name is one"
