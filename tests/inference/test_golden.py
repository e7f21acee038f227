"""Reference outputs: every value of every file, molecules alone and together, and the reference release's own checkpoint."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import load, load_weights
from moleblend_fs.cli.main import main
from moleblend_fs.inference.golden import GoldenFile, relative_error
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.ops.layout import Layout

COMMITTED = Path(__file__).parents[1] / "golden"
FILES = ("pretrain", "finetune_2d", "finetune_2d3d")
TOLERANCE = 1e-5
OUTPUTS = {
    "pretrain": {"attention_bias", "final_hidden", "spd_logits", "edge_logits", "displacement", "predicted_noise"},
    "finetune_2d": {"final_hidden", "prediction"},
    "finetune_2d3d": {"final_hidden", "prediction"},
}


@pytest.fixture(scope="session")
def golden(shared):
    return {name: GoldenFile(shared / "golden" / f"{name}.npz") for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_every_value_of_the_file(golden, name):
    check_every_value(golden[name], name)


@pytest.mark.parametrize("name", ["pretrain", "finetune_2d3d"])
def test_every_value_of_the_committed_files(name):
    """The same files without rows of embedding tables that no molecule uses, and with the edge logits of one molecule only."""
    check_every_value(GoldenFile(COMMITTED / f"{name}.npz"), name)


def check_every_value(file, name):
    errors = dict(file.compare())
    recorded = {n.split("/", 1)[1] for n in file.values if n.startswith("m")}
    assert OUTPUTS[name] == OUTPUTS[name] & recorded == OUTPUTS[name] & set(errors)
    for kind in ("loss/", "grad_norm/"):
        expected = {n for n in file.values if n.startswith(kind)}
        unused = {n for n in expected if any(part in n for part in ("lm_head", "lm_output", "embed_out", ".layer_norm."))}
        assert {n for n in errors if n.startswith(kind)} >= expected - unused, "not every recorded value was compared"
    assert max(errors.values()) <= TOLERANCE, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", FILES)
def test_alone_and_in_mixed_batches_of_any_order(golden, name):
    """Each molecule alone, and packed with the others in several orders, some of them twice."""
    file = golden[name]
    rounds = [[m] for m in file.molecules]
    for seed in range(4):
        order = [*file.molecules, file.molecules[seed % len(file.molecules)]]
        random.Random(seed).shuffle(order)
        rounds.append(order)
    for order in rounds:
        batch = file.batch(order)
        layout = Layout(batch.num_atoms, "cpu")
        shown, _ = file.shown(order, batch, layout)
        with torch.no_grad():
            parts = list(file._per_molecule(file.model(batch, shown, layout), layout))
        for m, part in zip(order, parts, strict=True):
            for output in OUTPUTS[name]:
                assert relative_error(part[output], file.value(m, output)) <= TOLERANCE, (order, m, output)


@pytest.mark.parametrize(
    ("first", "second", "output"),
    [
        ("heads.spd.left.weight", "heads.spd.right.weight", "spd_logits"),
        ("heads.edge.left_norm.weight", "heads.edge.right_norm.weight", "edge_logits"),
        ("heads.displacement.left.weight", "heads.displacement.right.weight", "displacement"),
        ("heads.noise.query.weight", "heads.noise.key.weight", "predicted_noise"),
        ("atoms.in_degree_table.weight", "atoms.out_degree_table.weight", None),
        ("relations.gaussian_means", "relations.gaussian_stds", "attention_bias"),
    ],
)
def test_a_swapped_weight_falls_far_outside(first, second, output):
    """Where the swap changes the model (in- and out-degree are the same number, so that swap must not)."""
    file = GoldenFile(COMMITTED / "pretrain.npz")
    weights = dict(file.model.named_parameters())
    if "norm" in first:
        # Fresh normalisations are all ones: swapping them would show nothing.
        with torch.no_grad():
            weights[first].mul_(1.1)
    else:
        weights[first].data, weights[second].data = weights[second].data, weights[first].data
    errors = dict(file.compare())
    if output is None:
        assert max(errors[name] for name in OUTPUTS["pretrain"]) <= TOLERANCE
    else:
        assert errors[output] > 100 * TOLERANCE


def test_the_reference_checkpoint_converted_gives_the_recorded_outputs(shared, golden, tmp_path, capsys):
    folder = tmp_path / "ours"
    assert main(["convert", str(shared / "golden" / "reference_checkpoint.pt"), str(folder)]) == 0
    assert "not understood" not in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    converted = load(folder)
    model = MoleBlend(converted.config.without_dropout()).eval()
    load_weights(model, converted.weights, where="test", strict=True)
    file = golden["pretrain"]
    batch = file.batch(file.molecules)
    layout = Layout(batch.num_atoms, "cpu")
    shown, _ = file.shown(file.molecules, batch, layout)
    with torch.no_grad():
        parts = list(file._per_molecule(model(batch, shown, layout), layout))
    worst = max(relative_error(part[o], file.value(m, o)) for m, part in enumerate(parts) for o in OUTPUTS["pretrain"])
    assert worst <= TOLERANCE
    assert converted.config == load(shared / "golden" / "reference_checkpoint.pt").config


def test_check_golden_exits_1_when_a_value_is_off(shared, tmp_path, capsys):
    source = shared / "golden" / "finetune_2d3d.npz"
    assert main(["check-golden", str(source)]) == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert "prediction" in out
    with np.load(source) as archive:
        values = {name: archive[name] for name in archive.files}
    values["m2/prediction"] = values["m2/prediction"] + np.float32(1e-3)
    np.savez(tmp_path / "off.npz", **values)
    assert main(["check-golden", str(source), str(tmp_path / "off.npz")]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert len(failed) == 1
    assert "prediction" in failed[0]


def test_what_is_no_golden_file_is_told(tmp_path, capsys):
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    for name in ("a.npz", "b.npz", "absent.npz"):
        assert main(["check-golden", str(tmp_path / name)]) == 2
        assert f"{name}: not a golden file" in capsys.readouterr().err
