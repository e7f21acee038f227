"""`moleblend predict`: every row of the source has its line, and broken models and molecules without 3D are told."""

import csv
import dataclasses
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.writer import StoreWriter
from moleblend_fs.errors import UserError
from moleblend_fs.inference.forward import Forward, properties
from moleblend_fs.inference.predict import Runner, loaders_told
from moleblend_fs.predictions.checkpoint_model import open_predictive
from moleblend_fs.predictions.rows import read_from
from moleblend_fs.predictions.table import PredictionTable
from moleblend_fs.predictions.writing import write_table
from tests.conftest import preprocessed
from tests.inference.untrained_models import untrained
from tests.model.molecules import AWKWARD, ORDINARY, graph

COMMAND = str(Path(sys.executable).parent / "moleblend")


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def predicted(checkpoint: Path, store: Store, out: Path, *options: str) -> list[dict[str, str]]:
    assert main(["predict", str(checkpoint), str(store.path), str(out), *options]) == 0
    return table(out)


def write_mixed(path: Path) -> Store:
    """12 molecules, each third without coordinates, in rows 0, 2, 4 ...; odd rows are failures, and rows 4 and 22 have a note."""
    results: list[tuple[int, EncodedMolecule | Failure]] = []
    for number, smiles in enumerate((*ORDINARY, *AWKWARD)):
        made = graph(smiles, number, coordinates=number % 3 != 2, labels=[float(number)])
        made.split = "train" if number % 2 else "test"
        results.append((2 * number, EncodedMolecule.from_graph(made, 2 * number)))
        if number in (2, 11):
            results.append((2 * number, Failure(input=smiles, reason="no conformer: too strained")))
        results.append((2 * number + 1, Failure(input=f'bad "{number}", cut\n', reason=f"reason {number}")))
    with StoreWriter(path, {}) as writer:
        writer.add(results, next_row=24)
        labels = (LabelSpec(name="y", unit="", kind="regression"),)
        writer.finish(source="test", options={}, inputs={}, labels=labels, splitter=Splitter(kind="prescribed"), versions={})
    return Store(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Store:
    return write_mixed(tmp_path_factory.mktemp("mixed") / "store")


def test_rows_of_a_table_come_out_as_they_went_in(tmp_path, capsys):
    rows = ("CCO", "not_a_smiles", "c1ccccc1", "", "CCO", "C1CC", "CC(C)=O")
    (tmp_path / "new.csv").write_text("id,smiles\n" + "".join(f"X{i},{smiles}\n" for i, smiles in enumerate(rows)))
    store = preprocessed(tmp_path / "store", "csv", str(tmp_path / "new.csv"), "--split", "random")
    capsys.readouterr()
    lines = predicted(untrained(tmp_path / "model"), store, tmp_path / "out.csv")
    assert [(int(line["row"]), line["smiles"]) for line in lines] == list(enumerate(rows))
    good = [i for i, line in enumerate(lines) if line["status"] == "ok"]
    assert good == [0, 2, 4, 6]
    for i, line in enumerate(lines):
        assert (line["y"] != "") == (i in good)
    assert lines[5]["status"].startswith("no molecule: RDKit: unclosed ring")
    assert lines[0]["y"] == lines[4]["y"] != lines[2]["y"]
    said = capsys.readouterr()
    assert said.out == f"4 molecules: {tmp_path}/out.csv\n"
    assert "3 rows of the source gave no molecule and have no prediction; see the column status of" in said.err


@pytest.mark.parametrize("kind", ["csv", "smiles", "sdf"])
def test_the_sources_own_identifiers_are_carried(tmp_path, capsys, kind):
    smiles = ("CCO", "not_a_smiles", "c1ccccc1", "CC(C)=O")
    path, names, options = tmp_path / f"in.{kind}", ["name"], []
    if kind == "csv":
        path.write_text('id,smiles,y,remark\nX0,CCO,1,\n\nX1,not_a_smiles,2,"a, b"\nX2,c1ccccc1,3,c\nX3,CC(C)=O,4,d\n')
        names, options = ["id", "smiles (source)", "y", "remark"], ["--label", "y:regression"]
    elif kind == "smiles":
        path.write_text("# a list\nCCO X0\nnot_a_smiles\tX1\n\nc1ccccc1 X2\nCC(C)=O X3\n")
    else:
        blocks = [Chem.MolToMolBlock(mol) if (mol := Chem.MolFromSmiles(s)) else "\n\n\nnonsense\nM  END\n" for s in smiles]
        path.write_text("$$$$\n".join(f"X{i}{block}" for i, block in enumerate(blocks)))
        names = ["title"]
    store = preprocessed(tmp_path / "store", kind, str(path), "--split", "none", *options)
    lines = predicted(untrained(tmp_path / "model"), store, tmp_path / "out.csv", "--source", str(path))
    assert list(lines[0]) == ["row", "smiles", *names, "y (predicted)" if kind == "csv" else "y", "status"]
    assert [line[names[0]] for line in lines] == ["X0", "X1", "X2", "X3"]
    assert [line["status"] == "ok" for line in lines] == [True, False, True, True]
    blank = {
        "csv": "1 row of the source has no line: blank\n",
        "smiles": "2 rows of the source have no line: blank or comment\n",
        "sdf": "",
    }
    assert blank[kind] in capsys.readouterr().err
    if kind == "csv":
        assert [line["remark"] for line in lines] == ["", "a, b", "c", "d"]
        assert [line["smiles (source)"] for line in lines] == list(smiles)
    lines = predicted(tmp_path / "model", store, tmp_path / "split.csv", "--source", str(path), "--split", "train")
    assert [line[names[0]] for line in lines] == ["X0", "X2", "X3"]


def test_another_source_than_the_stores_is_refused(mixed, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    store = preprocessed(tmp_path / "store", "csv", str(tmp_path / "in.csv"), "--split", "none")
    (tmp_path / "in.csv").write_text("smiles\nCCN\n")
    words = ["predict", str(untrained(tmp_path / "model")), str(store.path), str(tmp_path / "out.csv"), "--source"]
    for given, message in ((tmp_path / "in.csv", "not the file that the store was made from; it was in.csv"), (tmp_path, "no such file")):
        assert main([*words, str(given)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_statuses_of_a_model_of_both_inputs(mixed, tmp_path, capsys):
    lines = predicted(untrained(tmp_path / "model", inputs="2d+3d"), mixed, tmp_path / "out.csv")
    assert [int(line["row"]) for line in lines] == list(range(24))
    for row, line in enumerate(lines):
        number = row // 2
        if row % 2:
            assert line == {"row": str(row), "smiles": f'bad "{number}", cut\n', "y": "", "status": f"no molecule: reason {number}"}
            continue
        assert line["smiles"] == (*ORDINARY, *AWKWARD)[number]
        assert np.isfinite(float(line["y"]))
        expected = "ok" if number % 3 != 2 else "from 2D alone: no 3D structure"
        assert line["status"] == expected + ("; no conformer: too strained" if number in (2, 11) else "")
    said = capsys.readouterr().err
    assert "12 rows of the source gave no molecule" in said
    assert "4 molecules have no 3D structure: predicted from 2D alone" in said


def test_a_split_has_its_own_molecules_alone(mixed, tmp_path, capsys):
    lines = predicted(untrained(tmp_path / "model"), mixed, tmp_path / "out.csv", "--split", "test")
    assert [int(line["row"]) for line in lines] == [0, 4, 8, 12, 16, 20]
    assert "belong to no split; leave --split out" in capsys.readouterr().err


def test_a_model_of_3d_alone_predicts_where_there_is_a_structure(mixed, tmp_path):
    model = untrained(tmp_path / "model", inputs="3d")
    lines = [line for line in predicted(model, mixed, tmp_path / "out.csv", "--max-tokens", "1") if line["smiles"][:3] != "bad"]
    for number, line in enumerate(lines):
        if number % 3 == 2:
            assert line["y"] == ""
            assert line["status"].startswith("no prediction: no 3D structure")
        else:
            assert np.isfinite(float(line["y"]))
            assert line["status"] == "ok"


def test_rows_that_were_left_out_on_purpose_have_a_line(tmp_path, capsys):
    (tmp_path / "others.csv").write_text("smiles\nCCO\n")
    (tmp_path / "in.csv").write_text("smiles,id\nCCO,a\nC1CC,b\nc1ccccc1,c\n\nOCC,d\n")
    words = ("csv", str(tmp_path / "in.csv"), "--split", "none", "--exclude", str(tmp_path / "others.csv"))
    store = preprocessed(tmp_path / "store", *words)
    capsys.readouterr()
    lines = predicted(untrained(tmp_path / "model"), store, tmp_path / "out.csv", "--source", str(tmp_path / "in.csv"))
    assert [line["id"] for line in lines] == ["a", "b", "c", "d"]
    excluded = "no molecule: excluded: its skeleton is in others.csv"
    assert [line["status"] == excluded for line in lines] == [True, False, False, True]
    said = capsys.readouterr().err
    assert "1 row of the source has no line: blank\n" in said
    assert "no line: excluded" not in said


def test_a_large_source_of_a_former_versions_store_is_known_by_its_size(tmp_path):
    (tmp_path / "in.csv").write_text("smiles,id\nCCO,a\nCCC,b\n")
    store = preprocessed(tmp_path / "store", "csv", str(tmp_path / "in.csv"), "--split", "none")
    inputs = {"in.csv": f"bytes:{(tmp_path / 'in.csv').stat().st_size}"}
    dataclasses.replace(store.manifest, inputs=inputs).save(store.path / "manifest.json")
    lines = predicted(untrained(tmp_path / "model"), store, tmp_path / "out.csv", "--source", str(tmp_path / "in.csv"))
    assert [line["id"] for line in lines] == ["a", "b"]


@pytest.mark.parametrize("damage", ["missing", "cut", "no number", "a line less"])
def test_a_damaged_list_of_failures_is_told(tmp_path, capsys, damage):
    """Rows that it does not name would be missing from the table without a word."""
    store = write_mixed(tmp_path / "store")
    path = store.path / "failures.csv"
    whole = path.read_text()
    text = {"missing": "", "cut": whole[:-25], "no number": whole.replace("\n13,", "\nx,"), "a line less": whole.replace("\n4,", "\n", 1)}[
        damage
    ]
    path.unlink() if damage == "missing" else path.write_text(text)
    assert main(["predict", str(untrained(tmp_path / "model")), str(store.path), str(tmp_path / "out.csv")]) == 2
    assert "failures.csv: " in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_target_may_have_any_name(mixed, tmp_path):
    lines = predicted(untrained(tmp_path / "model", targets=("status", "a,b", "row")), mixed, tmp_path / "out.csv")
    assert list(lines[0]) == ["row", "smiles", "status (predicted)", "a,b", "row (predicted)", "status"]


@pytest.mark.parametrize(("mean", "std", "digits"), [(0.0, 1.0, 7), (-11_000.25, 0.5, 12), (3.0, 0.0, 7)])
def test_digits_are_those_of_the_spread(mixed, tmp_path, mean, std, digits):
    """Total energies: what tells molecules apart stands behind a large mean."""
    lines = predicted(untrained(tmp_path / "model", mean=mean, std=std), mixed, tmp_path / "out.csv")
    parts = list(Runner().properties(load(tmp_path / "model"), mixed, np.arange(12)))
    values = np.concatenate([part.values[:, 0] for part in parts])
    shown = [float(line["y"]) for line in lines if line["y"]]
    np.testing.assert_allclose(shown, values, rtol=10.0 ** -(digits - 1) / 2, atol=0)
    if std:
        assert len(set(shown)) == len(set(values.tolist()))


@pytest.mark.parametrize("width", [16, 64])
def test_windows_batches_and_workers_give_the_same_bits(mixed, tmp_path, width):
    checkpoint = load(untrained(tmp_path / "model", inputs="2d+3d", width=width))
    with Forward([checkpoint.build()], "cpu", "2d+3d", properties, 100) as forward:
        assert forward.apart == (width == 16)
    indices = np.array([5, 0, 11, 3, 3, 7, 1, 2, 10])

    def run(**options: int) -> list:
        return list(Runner(**options).properties(checkpoint, mixed, indices))  # type: ignore[arg-type]

    (whole,) = run()
    assert whole.rows.tolist() == (2 * indices).tolist()
    for options in ({"window": 4}, {"window": 1}, {"tokens": 1}, {"workers": 2, "window": 2, "tokens": 40}):
        parts = run(**options)
        assert len(parts) == -(-len(indices) // options.get("window", 100))
        assert np.concatenate([part.rows for part in parts]).tolist() == whole.rows.tolist()
        assert [text for part in parts for text in part.smiles] == whole.smiles
        assert np.concatenate([part.has_3d for part in parts]).tolist() == whole.has_3d.tolist()
        assert np.array_equal(np.concatenate([part.values for part in parts]), whole.values)
    assert np.ptp(whole.values) > 0.1, "molecules must differ for this to show anything"


def test_bfloat16_on_request(mixed, tmp_path, capsys):
    """Other digits than float32's, near them, and the same whatever the batches are."""
    model = untrained(tmp_path / "model", inputs="2d+3d", width=64)
    exact = predicted(model, mixed, tmp_path / "exact.csv")
    lowered = predicted(model, mixed, tmp_path / "lowered.csv", "--precision", "bf16")
    assert predicted(model, mixed, tmp_path / "again.csv", "--precision", "bf16", "--max-tokens", "1") == lowered
    values, near = (np.array([float(line["y"]) for line in lines if line["y"]]) for lines in (exact, lowered))
    assert len(values) == 12
    assert 1e-4 < np.sqrt(np.mean((values - near) ** 2)) / values.std() < 0.05
    assert main(["evaluate", str(model), str(mixed.path), "--precision", "bf16", "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["precision"] == "bf16"
    shown = {line["smiles"]: float(line["y"]) for line in lowered if line["y"]}
    for entry in scores["predictions"]:
        assert entry["prediction"][0] == pytest.approx(shown[entry["smiles"]], abs=1e-5)


def test_memory_does_not_grow_with_the_store(tmp_path):
    """Peak of what Python holds over three times as many molecules, a window of 200 at a time."""
    made = EncodedMolecule.from_graph(graph("C" * 30, coordinates=False), 0)
    model = open_predictive(untrained(tmp_path / "model", width=64))
    peaks = {}
    for count in (200, 1000, 3000):  # the first for what is kept for good
        with StoreWriter(tmp_path / str(count), {}) as writer:
            writer.add(((row, made) for row in range(count)), next_row=count)
            writer.finish(source="test", options={}, inputs={}, labels=(), splitter=Splitter(kind="none"), versions={})
        store = Store(tmp_path / str(count))
        table_of = PredictionTable(model, ["row", "smiles"])
        tracemalloc.start()
        with Forward([member.build() for member in model.members], "cpu", "2d", properties, 16_384) as forward:
            write_table(
                tmp_path / "out.csv",
                lambda start, store=store, count=count: read_from(store, np.arange(count), None, whole=True),
                table_of,
                forward,
                {},
                window=200,
            )
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(table(tmp_path / "out.csv")) == count
    smiles = 2000 * sys.getsizeof("C" * 30)
    assert peaks[3000] - peaks[1000] < smiles, "not even the SMILES may be held, let alone the records"


def test_a_loader_process_that_dies_is_told(mixed, tmp_path):
    """torch raises its error in a signal's handler, wherever the process is then."""
    checkpoint = load(untrained(tmp_path / "model"))
    others = set(multiprocessing.active_children())  # such as joblib's of an earlier test

    def run() -> None:
        with loaders_told():
            for part in Runner(workers=1, window=1).properties(checkpoint, mixed, np.arange(12)):
                assert len(part.rows) == 1
                for process in set(multiprocessing.active_children()) - others:
                    process.kill()

    with pytest.raises(UserError, match=r"a loader process failed \(.*\); fewer --workers need less memory, --workers 0 none"):
        run()
    with pytest.raises(RuntimeError, match="another"), loaders_told():
        raise RuntimeError("another")


def spoil(name: str, value: float):
    def change(model) -> None:
        dict(model.named_parameters())[name].view(-1)[0] = value

    return change


@pytest.mark.parametrize("command", ["predict", "predict --embeddings 2d", "evaluate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_told(mixed, tmp_path, capsys, command, value):
    name = "encoder.blocks.1.ffn_out.weight"
    model = untrained(tmp_path / "model", change=spoil(name, value))
    words, *options = command.split()
    out = [str(tmp_path / "out")] if words == "predict" else ["--json", str(tmp_path / "out")]
    assert main([words, str(model), str(mixed.path), *out, *options]) == 2
    said = capsys.readouterr().err
    assert f"model: 1 of 256 numbers in {name} are NaN or infinite" in said.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_scales_that_are_no_numbers_are_told(mixed, tmp_path, capsys):
    assert main(["predict", str(untrained(tmp_path / "model", mean=float("nan"))), str(mixed.path), str(tmp_path / "out")]) == 2
    assert "standard deviation that outputs are scaled by is no finite number" in capsys.readouterr().err


def only_sodium(model) -> None:
    """Sodium's embedding is as large as float32 gets, so that the molecule that has it overflows, and no other."""
    model.atoms.atom_table.weight[2 + 10] = 3e38  # atomic numbers count from 0, rows from 2


def test_outputs_that_are_no_numbers_are_told_by_molecule(mixed, tmp_path, capsys):
    model = untrained(tmp_path / "model", change=only_sodium)
    lines = predicted(model, mixed, tmp_path / "out.csv")
    (bad,) = [line for line in lines if "not finite" in line["status"]]
    assert (bad["smiles"], bad["y"]) == ("CC(=O)[O-].[Na+]", "")
    assert bad["status"] == "no prediction: the model's output is not finite"
    assert sum(line["status"].startswith("ok") for line in lines) == 11
    assert "1 molecule has no prediction, since the model's output is not finite for it" in capsys.readouterr().err
    split = "train" if bad["row"] in ("2", "6", "10", "14", "18", "22") else "test"
    assert main(["evaluate", str(model), str(mixed.path), "--split", split, "--json", str(tmp_path / "x.json")]) == 2
    assert f"the model's output is not finite for 1 of 6 molecules (row {bad['row']} of the source)" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
    assert main(["predict", str(model), str(mixed.path), str(tmp_path / "e"), "--embeddings", "2d"]) == 0
    assert f"the representation is not finite for row {bad['row']}\n" in capsys.readouterr().err
    values = np.load(tmp_path / "e")
    assert np.isfinite(values).all(axis=1).sum() == 11
    everywhere = untrained(tmp_path / "all", change=lambda m: [w.fill_(3e38) for w in (m.atoms.atom_table.weight,)])
    assert main(["predict", str(everywhere), str(mixed.path), str(tmp_path / "none.csv")]) == 2
    assert "not finite for any of 12 molecules; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()


def test_embeddings_are_written_under_the_name_given(mixed, tmp_path, capsys):
    model = untrained(tmp_path / "model")
    assert main(["predict", str(model), str(mixed.path), str(tmp_path / "x"), "--embeddings", "2d"]) == 0
    assert f"12 molecules: {tmp_path}/x\n" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x"]
    values = np.load(tmp_path / "x", allow_pickle=False)
    (part,) = Runner().embeddings(load(model), mixed, np.arange(12), "2d")
    assert np.array_equal(values, part.values.astype(np.float32))
    assert (values.dtype, values.shape) == (np.float32, (12, 16))


def test_an_empty_split_is_told(tmp_path, capsys):
    (tmp_path / "one.csv").write_text("smiles,y\nCCO,0.1\n")
    store = preprocessed(tmp_path / "store", "csv", str(tmp_path / "one.csv"), "--label", "y", "--split", "random")
    capsys.readouterr()
    model = str(untrained(tmp_path / "model"))
    assert store.manifest.splits["test"].molecules == 0
    for words in (["evaluate", model, str(store.path)], ["predict", model, str(store.path), str(tmp_path / "o.csv"), "--split", "test"]):
        assert main(words) == 2
        assert f"split 'test' of {store.path} is empty (train 1, valid 0, test 0)" in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()


def test_what_is_read_is_not_overwritten(mixed, tmp_path, capsys):
    model = untrained(tmp_path / "model")
    before = (model / "config.json").read_bytes()
    assert main(["predict", str(model), str(mixed.path), str(model / "config.json")]) == 2
    assert main(["evaluate", str(model), str(mixed.path), "--json", str(mixed.path / "manifest.json")]) == 2
    assert capsys.readouterr().err.count("would overwrite what is read from") == 2
    assert (model / "config.json").read_bytes() == before


def test_a_file_of_splits_is_not_overwritten(mixed, tmp_path, capsys):
    model, splits = untrained(tmp_path / "model"), tmp_path / "splits.npy"
    splits.write_text('{"test": [0, 2]}')
    (tmp_path / "link.npy").symlink_to(splits)
    options = ["--split", "test", "--split-file", str(splits)]
    for command, *more in (("predict", "--embeddings", "2d"), ("predict",), ("embed",), ("evaluate",)):
        for out in (str(splits), str(tmp_path / "link.npy")):
            place = ["--json", out] if command == "evaluate" else [out]
            assert main([command, str(model), str(mixed.path), *place, *options, *more]) == 2
            assert "would overwrite what is read from" in capsys.readouterr().err
    assert splits.read_text() == '{"test": [0, 2]}'


@pytest.mark.cold
def test_the_table_on_standard_output(mixed, tmp_path):
    """Redirected to a file, and as a pipe that its reader leaves: nothing but the table."""
    model = untrained(tmp_path / "model")
    lines = predicted(model, mixed, tmp_path / "out.csv")
    words = [COMMAND, "predict", str(model), str(mixed.path), "/dev/stdout"]
    assert len(lines) == 24
    with open(tmp_path / "redirected.csv", "w") as stream:
        done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, text=True, check=True)
    assert (tmp_path / "redirected.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert done.stderr.endswith("12 molecules: /dev/stdout\n")
    done = subprocess.run(f"{' '.join(words)} | true", shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.parametrize("limit", [24, 40])
def test_few_open_files_with_loader_processes(mixed, tmp_path, limit):
    """Ends with all predictions or with a message; it once waited for ever."""
    model = untrained(tmp_path / "model")
    command = [COMMAND, "predict", str(model), str(mixed.path), str(tmp_path / "out.csv"), "--workers", "2", "--max-tokens", "1"]

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=few, timeout=120, env=environment)
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert len(table(tmp_path / "out.csv")) == 24
    else:
        assert done.returncode == 2
        assert "open files" in done.stderr
        assert not (tmp_path / "out.csv").exists()
