"""Every objective of the registry, from a store to predictions: trained, reported, finetuned from, evaluated, predicted, embedded.

On real molecules: QM9 with its structures, and ESOL with ETKDG's.
"""

import csv
import json

import numpy as np
import pytest

from moleblend_fs.checkpoint.read import read_torch_file
from moleblend_fs.cli.main import main
from moleblend_fs.objectives.registry import objectives
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, SMALL, train
from tests.support.sidecars import make_sidecars

ON_ETKDG = ("blend_then_predict", "context_pred", "info3d", "uni_mol")
"""Those that are walked on ESOL too: of 2D and 3D, of 2D, of both views, of 3D alone."""
SIZE = (*SMALL, "--embed-dim", "32", "--ffn-dim", "32")


@pytest.fixture(scope="module")
def esol_store(shared, tmp_path_factory):
    source = str(shared / "data" / "moleculenet" / "esol.csv.gz")
    return preprocessed(tmp_path_factory.mktemp("esol") / "store", "moleculenet", source, "--limit", "40", "--conformers", "1")


CASES = [*((name, "qm9", "gap") for name in objectives()), *((name, "esol", "logSolubility") for name in ON_ETKDG)]


@pytest.mark.parametrize(("name", "data", "target"), CASES, ids=[f"{data}-{name}" for name, data, _ in CASES])
def test_from_a_store_to_predictions(name, data, target, request, tmp_path):
    store = request.getfixturevalue(f"{data}_store")
    found = objectives()[name]
    make_sidecars(store, found(found.Options()).sidecars(), tmp_path)
    words = ("--task", "moleblend", "--criterion", "pretrain", "--objective", name, "--arch", "moleblend_tiny", *SIZE, *ADAM)
    pretrained = train(store.path, tmp_path / "pretrained", *words, "--max-update", "2", "--batch-size", "16")
    checkpoint = tmp_path / "pretrained" / "checkpoint_best.pt"
    assert all(np.isfinite(pretrained.column("valid", "valid_loss")))

    facts = read_torch_file(checkpoint)["extra_state"]["moleblend"]["pretraining"]
    assert [each["name"] for each in facts["objectives"]] == [name]
    assert facts["passes"] >= 1
    assert facts["objectives"][0]["terms"]

    finetuned = train(
        store.path, tmp_path / "finetuned", *FINETUNE, *SIZE, *ADAM, "--max-update", "2", "--batch-size", "16", "--targets", target,
        "--finetune-from-model", str(checkpoint),
    )  # fmt: skip
    model = tmp_path / "finetuned" / "checkpoint_best.pt"
    assert all(np.isfinite(finetuned.column("valid", "valid_loss")))
    assert f"pretrained weights from {checkpoint}" in finetuned.output
    assert "left at their initial values" not in finetuned.output

    assert main(["evaluate", str(model), str(store.path), "--split", "test", "--json", str(tmp_path / "finetuned" / "test.json")]) == 0
    assert target in json.loads((tmp_path / "finetuned" / "test.json").read_text())["metrics"]
    assert main(["predict", str(model), str(tmp_path / "out.csv"), "--smiles", "CCO", "c1ccccc1", "--allow-differences", "hydrogens"]) == 0
    with open(tmp_path / "out.csv", newline="") as stream:
        assert [np.isfinite(float(line[target])) for line in csv.DictReader(stream)] == [True, True]
    assert main(["embed", str(checkpoint), str(tmp_path / "out.npy"), "--smiles", "CCO", "c1ccccc1", "--no-progress"]) == 0
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert name in page
    for term in facts["objectives"][0]["terms"]:
        assert f"{term}_loss" in pretrained.logged("train_inner")[-1], term
    assert "passes a step" in page


def test_a_checkpoint_says_all_of_a_sum(qm9_store, tmp_path):
    words = ("--objective", "blend,attr_mask", "--objective-weights", "1,0.5", "--attr-mask-bonds", "--blend-ratio", "0.4,0.4,0.2")
    words = ("--task", "moleblend", "--criterion", "pretrain", *words, "--arch", "moleblend_tiny", *SIZE, *ADAM)
    train(qm9_store.path, tmp_path / "run", *words, "--max-update", "1", "--batch-size", "16", "--log-file", str(tmp_path / "run.log"))
    facts = read_torch_file(tmp_path / "run" / "checkpoint_last.pt")["extra_state"]["moleblend"]["pretraining"]
    blend, mask = facts["objectives"]
    assert (blend["name"], blend["weight"], mask["name"], mask["weight"]) == ("blend_then_predict", 1.0, "attr_mask", 0.5)
    assert blend["options"]["blend_ratio"] == [0.4, 0.4, 0.2]
    assert mask["options"] == {"attr_mask_rate": 0.15, "attr_mask_bonds": True}
    assert mask["terms"] == {"hidden_element": 1.0, "hidden_bond": 1.0}
    assert facts["passes"] == 2
    told = [line.partition("pretraining: ")[2] for line in (tmp_path / "run.log").read_text().splitlines() if "pretraining: " in line]
    assert [json.loads(line) for line in told] == [facts]
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    for shown in ("blend_ratio 0.4,0.4,0.2; attr_mask_bonds True", "<td>1.0, 0.5</td>", "<td>2</td>"):
        assert shown in page, shown
