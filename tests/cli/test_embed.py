"""`moleblend embed`: files of every kind hold what `Embedder` gives, a row for each row."""

import bz2
import csv
import gzip
import lzma
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from moleblend_fs import Embedder
from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.checkpoint.write import save
from moleblend_fs.cli import embedding_files
from moleblend_fs.cli.main import main
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from tests.cli.test_predict import only_sodium
from tests.inference.untrained_models import untrained

SMILES = ["CCO", "bad", "c1ccccc1", "CC"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("models") / "model", width=64)


def embedded(model: Path, level: str = "graph"):
    with warnings.catch_warnings(), Embedder(model) as embedder:
        warnings.simplefilter("ignore")
        return embedder(SMILES, level=level)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["graph", "mean"])
def test_files_of_molecules(model, tmp_path, level, capsys):
    (tmp_path / "in.csv").write_text("id,smiles\n" + "".join(f"X{i},{text}\n" for i, text in enumerate(SMILES)))
    expected = embedded(model, level)
    for ending in ("npy", "npz", "csv", "tsv"):
        words = [str(tmp_path / "in.csv"), str(tmp_path / f"out.{ending}"), "--level", level, "--no-progress"]
        assert main(["embed", str(model), *words]) == 0
    assert "no representation of 1 of 4 rows\n" in capsys.readouterr().err
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected, equal_nan=True)
    arrays = np.load(tmp_path / "out.npz")
    assert np.array_equal(arrays["values"], expected, equal_nan=True)
    assert arrays["smiles"].tolist() == SMILES
    assert [status.split(":")[0] for status in arrays["status"]] == ["ok", "no molecule", "ok", "ok"]
    with open(tmp_path / "out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream, strict=True))
    assert list(lines[0]) == ["id", "smiles", *(f"e{i}" for i in range(64)), "status"]
    with open(tmp_path / "out.tsv", newline="") as stream:
        assert list(csv.DictReader(stream, delimiter="\t", strict=True)) == lines
    assert lines[1]["e0"] == ""
    np.testing.assert_allclose([float(lines[2][f"e{i}"]) for i in range(64)], expected[2], rtol=1e-6)


def test_packed_tables(model, tmp_path):
    plain = ["embed", str(model), str(tmp_path / "out.csv"), "--smiles", *SMILES, "--no-progress"]
    assert main(plain) == 0
    for ending, reader in {"gz": gzip, "xz": lzma, "bz2": bz2}.items():
        first, second = (tmp_path / f"{name}.csv.{ending}" for name in ("one", "two"))
        for out in (first, second):
            assert main([str(out) if word == plain[2] else word for word in plain]) == 0
        assert reader.decompress(first.read_bytes()) == (tmp_path / "out.csv").read_bytes()
        assert first.read_bytes() == second.read_bytes()
    assert main([str(tmp_path / "out.npy.gz") if word == plain[2] else word for word in plain]) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".gz") == ["one.csv.gz", "two.csv.gz"]


def test_bfloat16_on_request(model, tmp_path, capsys):
    words = ["embed", str(model), str(tmp_path / "out.npy"), "--smiles", *SMILES, "--no-progress", "--precision", "bf16"]
    assert main(words) == 0
    with Embedder(model, precision="bf16", tell=lambda line: None) as embedder:
        lowered = embedder(SMILES)
    assert np.array_equal(np.load(tmp_path / "out.npy"), lowered, equal_nan=True)
    exact = embedded(model)
    assert 1e-4 < np.sqrt(np.nanmean((lowered - exact) ** 2)) / np.nanstd(exact) < 0.05
    with pytest.raises(UserError, match="precision must be 'float32' or 'bf16', got 'fp16'"):
        Embedder(model, precision="fp16")  # type: ignore[arg-type]


def test_files_of_atoms(model, tmp_path):
    expected = embedded(model, "atom")
    for ending in ("npz", "csv"):
        assert main(["embed", str(model), str(tmp_path / f"out.{ending}"), "--smiles", *SMILES, "--level", "atom", "--no-progress"]) == 0
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["starts"].tolist() == [0, 3, 3, 9, 11]
    for i in (0, 2, 3):
        assert np.array_equal(arrays["values"][arrays["starts"][i] : arrays["starts"][i + 1]], expected[i])
    with open(tmp_path / "out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream, strict=True))
    assert [line["atom"] for line in lines] == ["0", "1", "2", "", *"012345", "0", "1"]


@pytest.mark.parametrize("level", ["graph", "atom"])
def test_parquet_has_what_csv_has(model, tmp_path, level):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    for ending in ("csv", "parquet"):
        assert main(["embed", str(model), str(tmp_path / f"out.{ending}"), "--smiles", *SMILES, "--level", level, "--no-progress"]) == 0
    table = parquet.read_table(tmp_path / "out.parquet")
    with open(tmp_path / "out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert table.column_names == list(lines[0])
    shown = [{name: "" if value is None else value for name, value in row.items()} for row in table.to_pylist()]
    for row, line in zip(shown, lines, strict=True):
        for name, cell in line.items():
            assert cell == (f"{row[name]:.7g}" if isinstance(row[name], float) else str(row[name]))
    arrays = embedded(model, level)
    first = arrays[0] if level == "graph" else arrays[0][0]
    assert np.array_equal(np.float32([row["e0"] for row in table.to_pylist()][:1]), first[:1]), "numbers are not rounded"


def test_columns_of_one_name_are_told_apart_in_parquet(model, tmp_path):
    """Of two columns with one name no reader takes either."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    (tmp_path / "in.csv").write_text("smiles,a,a,status\nCCO,1,2,3\n")
    assert main(["embed", str(model), str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"), "--no-progress", "--workers", "0"]) == 0
    [row] = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row[name] for name in ("smiles", "a", "a (2)", "status (input)", "status")] == ["CCO", "1", "2", "3", "ok"]


def test_parquet_without_its_package_is_told(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["embed", str(model), str(tmp_path / "out.parquet"), "--smiles", "C"]) == 2
    assert "writing Parquet needs pyarrow: pip install pyarrow" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


def test_distances_of_a_model_that_predicts_them(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(layers=1, embed_dim=32, ffn_dim=32, attention_heads=2, gaussians=32, pair_dim=8, hidden_3d=8, heads=("distance",))
    net = MoleBlend(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    save(Checkpoint(config=config, weights=net.state_dict()), tmp_path / "model")
    expected = embedded(tmp_path / "model", "distances")
    assert [None if each is None else each.shape for each in expected] == [(3, 3), None, (6, 6), (2, 2)]
    words = ["--smiles", *SMILES, "--level", "distances", "--no-progress"]
    assert main(["embed", str(tmp_path / "model"), str(tmp_path / "out.npz"), *words]) == 0
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["starts"].tolist() == [0, 9, 9, 45, 49]
    assert np.array_equal(arrays["values"][9:45].reshape(6, 6), expected[2])
    assert main(["embed", str(tmp_path / "model"), str(tmp_path / "out.csv"), *words]) == 0
    with open(tmp_path / "out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream, strict=True))
    assert [(line["atom"], line["other_atom"]) for line in lines[:4]] == [("0", "0"), ("0", "1"), ("0", "2"), ("1", "0")]
    assert abs(float(lines[1]["distance"]) - expected[0][0, 1]) < 1e-5


def test_what_cannot_be_written_is_told(model, tmp_path, capsys):
    cases = {
        "the name must end in .npy, .npz, .csv, .tsv, .parquet": ["out.feather", "--smiles", "C"],
        "gives as many numbers as a molecule has atoms": ["out.npy", "--smiles", "C", "--level", "atom"],
        "give OUT": ["--smiles", "C"],
        "--format says how a file is read": ["out.npy", "--smiles", "C", "--format", "csv"],
        "--smiles-column says how a file is read": ["out.npy", "--smiles", "C", "--smiles-column", "text"],
        "give an INPUT": [],
        "layer must lie in 0 to 2": ["out.npy", "--smiles", "C", "--layer", "9"],
        "has no head that predicts distances": ["out.npz", "--smiles", "C", "--level", "distances"],
    }
    for message, (*words,) in cases.items():
        words = [str(tmp_path / words[0]), *words[1:]] if words and words[0].startswith("out") else words
        assert main(["embed", str(model), *words, "--no-progress"]) == 2, message
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_long_text_does_not_widen_all(model, tmp_path, monkeypatch, capsys):
    """NumPy gives each text the room of the longest one: of 100,000 with one of 100,000 characters that was 40 GB."""
    monkeypatch.setattr(embedding_files, "TEXTS", 4 * 300 * 5)
    long = "no molecule " * 10_000
    (tmp_path / "in.csv").write_text(f"smiles\nCCO\n{long}\n{'C' * 300}\n{'C' * 301}\nCC\n")
    for ending in ("npz", "csv"):
        assert (
            main(["embed", str(model), str(tmp_path / "in.csv"), str(tmp_path / f"out.{ending}"), "--no-progress", "--workers", "0"]) == 0
        )
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["smiles"].nbytes <= 4 * 300 * 5
    assert arrays["smiles"].tolist() == ["CCO", f"{long[:297]}...", "C" * 300, f"{'C' * 297}...", "CC"]
    assert (
        "2 texts are too long for an array of 5 and cut, ending in three dots; .csv and .parquet have all whole" in capsys.readouterr().err
    )
    with open(tmp_path / "out.csv", newline="") as stream:
        assert [line["smiles"] for line in csv.DictReader(stream)] == ["CCO", long, "C" * 300, "C" * 301, "CC"]
    monkeypatch.setattr(embedding_files, "TEXTS", 1)
    assert embedding_files.texts(["C" * 256, "C" * 257]).tolist() == ["C" * 256, "C" * 253 + "..."], (
        "what is no longer is whole in any case"
    )


def test_a_file_that_changes_meanwhile_is_told(tmp_path):
    """An array says before its rows how many they are; no reader took it."""
    rows = [(None, np.zeros(2, "<f4"), "ok")] * 3
    with open(tmp_path / "out.npy", "wb") as stream, pytest.raises(UserError, match="3 rows and had 2 when they were counted"):
        embedding_files.write_npy(stream, iter(rows), (2, 2))


@pytest.mark.parametrize("level", ["graph", "atom"])
def test_outputs_that_are_no_numbers_are_told(tmp_path, capsys, level):
    """They stood there as nan and inf, with the status "ok"."""
    model = untrained(tmp_path / "model", change=only_sodium)
    words = ["--smiles", "CCO", "CC(=O)[O-].[Na+]", "--no-progress", "--level", level]
    for ending in ("npz", "csv"):
        assert main(["embed", str(model), str(tmp_path / f"out.{ending}"), *words]) == 0
        assert "no representation of 1 of 2 rows" in capsys.readouterr().err
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["status"].tolist() == ["ok", "no representation: the model's output is not finite"]
    with Embedder(model, tell=lambda line: None) as embedder:
        found = embedder(["CCO", "CC(=O)[O-].[Na+]"], level)
    assert np.isfinite(found[0]).all()
    assert found[1] is None if level == "atom" else np.isnan(found[1]).all()
    assert arrays["starts"].tolist() == [0, 3, 3] if level == "atom" else np.isnan(arrays["values"][1]).all()
    with open(tmp_path / "out.csv", newline="") as stream:
        assert [line["e0"] == "" for line in csv.DictReader(stream)] == ([False] * 3 if level == "atom" else [False]) + [True]
