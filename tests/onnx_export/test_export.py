"""`moleblend export`: what is exported says the same, wherever and with whatever it is computed."""

import csv
import dataclasses
import io
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from moleblend_fs import Embedder, Predictor
from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles
from moleblend_fs.cli.main import main
from moleblend_fs.data.packed_arrays import joined
from moleblend_fs.data.record import encode
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.onnx_run.layout import padded, padded_atoms
from tests.inference.untrained_models import untrained
from tests.predictions.run_folders import TRAINING, run_folder

onnx = pytest.importorskip("onnx", reason="the export needs onnx (pip install 'moleblend-fs[export]')")
onnxruntime = pytest.importorskip("onnxruntime", reason="exported models need onnxruntime (pip install 'moleblend-fs[export]')")

from moleblend_fs.onnx_export import export as exporting  # noqa: E402
from moleblend_fs.onnx_export.network import network  # noqa: E402
from moleblend_fs.onnx_run.file import DIGEST_KEY, KEY, open_exported  # noqa: E402
from moleblend_fs.onnx_run.forward import OnnxForward  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*does not say what it was trained on", "ignore:molecules are made of heavy atoms")
ATROPINE = "CN1C2CCC1CC(C2)OC(=O)C(CO)c1ccccc1"
SMILES = ("C", "CCO", "c1ccccc1O", "[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O", "C" * 40, ATROPINE, "[Fe+2]", "C/C=C/C")
TABLE = "id;smiles;y\n1;CCO;0.5\n2;bad;\n3;c1ccccc1;7\n4;;\n5;CC(=O)Oc1ccccc1C(=O)O;x\n6;C C;\n"
STORE = TrainedOn(
    source="csv",
    featurisation=1,
    hydrogens="explicit",
    structures="ETKDG",
    conformers={"count": 1, "seed": 3, "timeout": 30, "steps": 50},
    molecules=9,
    molecules_with_3d=9,
    labels=(),
    inputs={},
    records_sha256="",
    split={},
    splits={},
)


def exported(model: Path, *options: str) -> Path:
    out = model.with_name(model.name + ".onnx")
    assert main(["export", str(model), str(out), *options]) == 0
    return out


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> tuple[Path, Path]:
    """A run folder of three members, and its export."""
    folder = run_folder(tmp_path_factory.mktemp("runs") / "run")
    return folder, exported(folder)


def table_of(model: Path, given: Path, *options: str) -> list[dict[str, str]]:
    out = given.with_name(f"{model.name}.out.csv")
    assert main(["predict", str(model), str(given), str(out), "--no-progress", "--workers", "1", *options]) == 0
    return list(csv.DictReader(io.StringIO(out.read_text())))


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_table_of_an_ensemble_is_the_same_but_for_rounding(kind, tmp_path):
    folder = run_folder(tmp_path / "run", kind=kind)
    (tmp_path / "in.csv").write_text(TABLE)
    before, after = table_of(folder, tmp_path / "in.csv"), table_of(exported(folder), tmp_path / "in.csv")
    assert len(after) == 6
    assert list(after[0]) == list(before[0])
    assert {"y (predicted)", "y (predicted)_std", "similarity", "outside_domain", "status"} <= set(after[0])
    numbers = [name for name in after[0] if name.startswith("y (predicted)")]
    assert len(numbers) == (4 if kind == "regression" else 2)
    for old, new in zip(before, after, strict=True):
        assert {name: new[name] for name in new if name not in numbers} == {name: old[name] for name in old if name not in numbers}
        assert [bool(new[name]) for name in numbers] == [bool(old[name]) for name in numbers]
        for name in numbers:
            if old[name]:
                assert float(new[name]) == pytest.approx(float(old[name]), rel=1e-5, abs=1e-5)
    predicted = [float(row["y (predicted)"]) for row in after if row["y (predicted)"]]
    assert np.ptp(predicted) > 0.01, "molecules differ by far more than is tolerated"


@pytest.mark.parametrize(("inputs", "width", "readout"), [("2d", 64, "mean"), ("3d", 32, "token"), ("2d+3d", 16, "token+mean")])
def test_smiles_and_structures_give_the_same_numbers(inputs, width, readout, tmp_path):
    """With hydrogens, and conformers made as the model's training made them."""
    plain = load(
        untrained(
            tmp_path / "plain",
            inputs=inputs,
            width=width,
            readout=readout,
            output_scale=1.0 if readout == "mean" else 2.5,
            targets=("a", "b"),
            mean=3.0,
            std=2.0,
        )
    )
    plain.trained_on = STORE
    save(plain, tmp_path / "model")
    out = exported(tmp_path / "model")
    given = [smiles for smiles in SMILES if len(smiles) < 40]
    mols = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("CCO", "c1ccccc1")]
    for mol in mols:
        AllChem.EmbedMolecule(mol, randomSeed=1)
    with (
        Predictor(tmp_path / "model", allow_differences=["structures"]) as torch_model,
        Predictor(str(out), allow_differences=["structures"]) as onnx_model,
    ):
        for molecules in (given, mols):
            expected, found = torch_model.predict(molecules), onnx_model.predict(molecules)
            assert found.status == expected.status
            np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=2e-5)  # 1e-5 of the outputs, scaled by 2
            assert np.ptp(found.values[:, 0]) > 0.01


def records_of(smiles, **options) -> list[bytes]:
    return [encode(graph_from_smiles(text, labels=np.zeros(0), options=BuildOptions(**options)), i) for i, text in enumerate(smiles)]


@pytest.mark.parametrize("inputs", ["2d", "3d"])
def test_numbers_are_the_same_bits_in_any_batch(inputs, tmp_path):
    model = exported(untrained(tmp_path / "model", inputs=inputs, width=64))
    records, sizes = [], []
    for number, text in enumerate(SMILES * 3):
        graph = graph_from_smiles(text, labels=np.zeros(0), options=BuildOptions())
        graph.coordinates = np.random.default_rng(number % len(SMILES)).normal(size=(1, graph.num_atoms, 3)).astype(np.float32)
        records.append(encode(graph, number))
        sizes.append(graph.num_atoms)
    file = open_exported(model)
    found = []
    for tokens, order in ((1, np.arange(27)), (100, np.arange(27)), (10_000, np.random.default_rng(0).permutation(27))):
        values = np.zeros(27)
        with OnnxForward(file, tokens, threads=2) as forward:
            batches = forward.batches(np.array(sizes)[order])
            assert sorted(np.concatenate(batches).tolist()) == list(range(27))
            for places in batches:
                chosen = order[places]
                values[chosen] = forward.submit_records([records[i] for i in chosen]).result()[0, :, 0]
        found.append(values)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[0][:9], found[0][9:18])
    assert len(set(found[0][:9])) == 9


def test_padding_of_any_width_changes_nothing_but_rounding(ensemble):
    session = onnxruntime.InferenceSession(ensemble[1])
    packed = joined(records_of(SMILES))
    names = [given.name for given in session.get_inputs()]
    assert names == ["num_atoms", "atom_features", "degree", "spd", "path_bonds"]
    narrow = padded(packed, names)
    n = narrow["spd"].shape[1]
    wide = {
        name: np.pad(array, [(0, 0)] + [(0, 9) if size == n else (0, 0) for size in array.shape[1:]], constant_values=1)
        for name, array in narrow.items()
    }
    assert wide["spd"].shape[1:] == (n + 9, n + 9)
    expected, found = (session.run(["properties"], feeds)[0] for feeds in (narrow, wide))
    assert expected.shape == (3, 9, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_padded_widths_are_those_of_the_multiples():
    assert padded_atoms(np.array([1, 3, 4, 7, 8])).tolist() == [3, 3, 7, 7, 11]


def test_an_encoder_gives_its_representations(tmp_path, monkeypatch):
    model = load(untrained(tmp_path / "finetuned", width=64))
    model.finetuned = None
    save(model, tmp_path / "encoder")
    monkeypatch.setenv("MOLEBLEND_WEIGHTS", str(tmp_path))
    assert exporting.to_export("encoder").about == exporting.to_export(tmp_path / "encoder").about, "by name"
    out = exported(tmp_path / "encoder", "--inputs", "2d")
    with Embedder(tmp_path / "encoder") as before, Embedder(out) as after:
        for level in ("graph", "mean"):
            found = after(list(SMILES), level=level)
            assert found.shape == (9, 64)
            np.testing.assert_allclose(found, before(list(SMILES), level=level), atol=1e-5, rtol=1e-5)
        for expected, found in zip(before(SMILES, level="atom"), after(SMILES, level="atom"), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
        with pytest.raises(UserError, match="gives no distances"):
            after(["C"], level="distances")
    with pytest.raises(UserError, match="for `moleblend embed`"):
        Predictor(out)
    for options, message in (
        ({"layer": 1}, "after all blocks"),
        ({"inputs": "3d"}, "exported for inputs 2d"),
        ({"member": 1}, "members 0 to 0"),
    ):
        with pytest.raises(UserError, match=message):
            Embedder(out, **options)


def test_members_of_an_exported_ensemble_give_their_own_representations(ensemble):
    folder, out = ensemble
    with Embedder(folder, member=2) as before, Embedder(out, member=2) as after, Embedder(out) as first:
        np.testing.assert_allclose(after(["CCO"]), before(["CCO"]), atol=1e-5, rtol=1e-5)
        assert np.abs(first(["CCO"]) - after(["CCO"])).max() > 1e-3


def test_training_molecules_are_left_out_where_that_is_asked_for(ensemble, tmp_path):
    folder, out = ensemble
    assert open_exported(out).exported.training_smiles == TRAINING
    assert main(["export", str(folder), str(tmp_path / "o.onnx"), "--no-training-molecules"]) == 0
    content = (tmp_path / "o.onnx").read_bytes()
    assert b"c1ccccc1O" in out.read_bytes()
    assert b"c1ccccc1O" not in content
    with Predictor(tmp_path / "o.onnx") as predictor:
        assert predictor.predict(["CCO"]).similarity is None


def _in_a_fork(predictor, answers) -> None:
    answers.send(predictor.predict(["CCO", "CC"]).values)
    answers.close()
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_process_has_threads_of_its_own(ensemble):
    with Predictor(ensemble[1], workers=0) as predictor:
        expected = predictor.predict(["CCO", "CC"]).values
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(predictor, theirs))
        process.start()
        try:
            assert ours.poll(60), "no answer of the forked process"
            assert np.array_equal(ours.recv(), expected)
        finally:
            process.kill()
            process.join()


def test_what_was_compared_is_told_and_kept(ensemble, capsys, tmp_path):
    assert main(["export", str(ensemble[0]), str(tmp_path / "o.onnx")]) == 0
    about = open_exported(tmp_path / "o.onnx").exported
    assert about.compared > 60
    assert 0 < about.largest_difference < 2e-5  # of members that hardly learned; the rounding of their own float32 is as large
    told = capsys.readouterr().out
    assert "3 members of inputs 2d, ONNX opset 20" in told
    assert f"at most {about.largest_difference:.1e}" in told


def test_another_models_network_is_not_written(tmp_path, monkeypatch):
    """As a fault of the export would be."""
    what = exporting.to_export(untrained(tmp_path / "model", width=32))

    def of_another(models, inputs, *, predicts):
        with torch.no_grad():
            other = what.members[0].build()
            other.encoder.blocks[0].ffn_in.weight.mul_(1.001)
        return network([other], inputs, predicts=predicts)

    monkeypatch.setattr(exporting, "network", of_another)
    with pytest.raises(UserError, match="outputs differ from the model's by "):
        exporting.export(tmp_path / "model", tmp_path / "out.onnx", what)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"featurisation": 2}, "features of version 2"),
        ({"hydrogens": "polar"}, "hydrogens 'polar'"),
        ({"conformers": {"tries": 3}}, "how its conformers were made is not understood"),
    ],
)
def test_models_whose_molecules_cannot_be_made_are_refused(change, message, tmp_path):
    model = load(untrained(tmp_path / "plain", inputs="2d+3d"))
    model.trained_on = dataclasses.replace(STORE, **change)
    save(model, tmp_path / "model")
    with pytest.raises(UserError, match=message):
        exporting.to_export(tmp_path / "model")


def test_what_cannot_be_exported_is_told(ensemble, tmp_path, capsys, monkeypatch):
    folder, out = ensemble
    cases = [
        ([str(folder), str(tmp_path / "o.pt")], "name a file that ends in .onnx"),
        ([str(folder), str(tmp_path / "o.onnx"), "--inputs", "3d"], "was finetuned with --inputs 2d"),
        ([str(tmp_path / "none"), str(tmp_path / "o.onnx")], "no such"),
        ([str(out), str(tmp_path / "o.onnx")], "an exported model"),
    ]
    for arguments, message in cases:
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(exporting, "LARGEST_FILE", 1000)
    assert main(["export", str(folder), str(tmp_path / "o.onnx")]) == 2
    assert "export its members one by one" in capsys.readouterr().err
    assert not (tmp_path / "o.onnx").exists()


def test_other_commands_say_what_an_exported_model_is(ensemble, tmp_path, capsys):
    out = str(ensemble[1])
    for arguments in (["inspect", out], ["report", out, "--output", str(tmp_path / "o.html")], ["evaluate", out, str(tmp_path)]):
        assert main(arguments) == 2
        assert "an exported model, which `moleblend predict` and `moleblend embed` read" in capsys.readouterr().err


def test_damaged_and_foreign_files_are_told(ensemble, tmp_path, capsys):
    content = ensemble[1].read_bytes()
    foreign = onnx.load_from_string(content)
    del foreign.metadata_props[:]
    described = onnx.load_from_string(content)
    described.metadata_props[0].value = '{"format": "moleblend-onnx", "version": 1}'
    later = onnx.load_from_string(content)
    later.metadata_props[0].value = '{"format": "moleblend-onnx", "version": 2}'
    assert later.metadata_props[0].key == KEY
    reads = onnx.load_from_string(content)
    reads.graph.input.append(reads.graph.input[0])
    reads.graph.input[-1].name = "mood"
    files = {
        "cut.onnx": (content[: len(content) // 2], "not a readable ONNX file"),
        "empty.onnx": (b"", "not a readable ONNX file"),
        "text.onnx": (b"hello\n", "not a readable ONNX file"),
        "foreign.onnx": (foreign.SerializeToString(), "not one of `moleblend export`"),
        "described.onnx": (described.SerializeToString(), "its description is damaged"),
        "later.onnx": (later.SerializeToString(), "it is of version 2, this one reads 1"),
        "reads.onnx": (reads.SerializeToString(), "the network reads mood"),
        "renamed": (content[: len(content) // 2], "not a readable ONNX file"),
    }
    for name, (bad, message) in files.items():
        (tmp_path / name).write_bytes(bad)
        assert main(["predict", str(tmp_path / name), "--smiles", "CCO"]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "missing.onnx"), "--smiles", "CCO"]) == 2
    assert "cannot be read (No such file" in capsys.readouterr().err
    assert main(["predict", str(ensemble[1]), "--smiles", "CCO", "--device", "cuda"]) == 2
    assert "runs on the CPU" in capsys.readouterr().err


def test_one_changed_bit_is_told(ensemble, tmp_path, capsys):
    """Anywhere: in a weight it changed predictions, and nothing else told of it."""
    content = bytearray(ensemble[1].read_bytes())
    weight = max(onnx.load_from_string(bytes(content)).graph.initializer, key=lambda each: len(each.raw_data)).raw_data
    for place in (content.find(weight) + len(weight) // 2, content.rfind(DIGEST_KEY.encode()) + len(DIGEST_KEY) + 9):
        content[place] ^= 1
        (tmp_path / "changed.onnx").write_bytes(content)
        assert main(["predict", str(tmp_path / "changed.onnx"), "--smiles", "CCO"]) == 2
        assert "damaged: its SHA-256 is not the one" in capsys.readouterr().err
        content[place] ^= 1


def test_files_without_a_digest_are_read(ensemble, tmp_path):
    """Those of earlier versions."""
    earlier = onnx.load_from_string(ensemble[1].read_bytes())
    del earlier.metadata_props[1]
    (tmp_path / "earlier.onnx").write_bytes(earlier.SerializeToString())
    assert open_exported(tmp_path / "earlier.onnx").exported == open_exported(ensemble[1]).exported


def test_a_renamed_export_is_known_by_its_content(ensemble, tmp_path, capfd):
    (tmp_path / "model").write_bytes(ensemble[1].read_bytes())
    assert main(["predict", str(tmp_path / "model"), "--smiles", "CCO"]) == 0
    assert capfd.readouterr().out.splitlines()[1].endswith(",1.0000,no,ok")
