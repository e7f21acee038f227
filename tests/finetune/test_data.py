"""DATA of all formats gives the same molecules and labels; what cannot be read is told."""

import gzip
import importlib.util

import numpy as np
import pytest

from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data import prepare, targets_of, unit_of
from moleblend_fs.finetune.folds import smiles_of
from moleblend_fs.finetune.settings import Settings
from tests.finetune.conftest import ESOL

ROWS = [line.rsplit(",", 1) for line in ESOL.strip().splitlines()[:12]]
SETTINGS = Settings(targets=("logS",))
MIXED = "smiles,logS,active\n" + "".join(f"{'C' * (i + 1)},{i / 7},{i % 2}\n" for i in range(20))


def content(path, folder, settings=SETTINGS):
    data = prepare(path, settings, folder, "none", workers=1, progress=False)
    labels = data.store.labels(np.arange(len(data.store)))[:, 0]
    return smiles_of(data.store), labels.tolist()


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolons", "gz", "other names"])
def test_tables_of_all_kinds(tmp_path, kind):
    expected = [smiles for smiles, _ in ROWS], [float(value) for _, value in ROWS]
    path, settings = tmp_path / "data.csv", SETTINGS
    lines = [["SMILES", "logS"], *ROWS]
    if kind == "semicolons":
        path.write_text("\n".join(f"{a};{b.replace('.', ',')}" for a, b in lines))
    elif kind == "tsv":
        path = tmp_path / "data.tsv"
        path.write_text("\n".join("\t".join(line) for line in lines))
    elif kind == "gz":
        path = tmp_path / "data.csv.gz"
        path.write_bytes(gzip.compress("\n".join(",".join(line) for line in lines).encode()))
    elif kind == "other names":
        path.write_text("\n".join(",".join(line) for line in [["what", "logS"], *ROWS]))
        settings = Settings(targets=("logS",), smiles_column="what")
    else:
        path.write_text("\n".join(",".join(line) for line in lines))
    assert content(path, tmp_path / "out", settings) == expected


def test_excel_and_parquet_files_are_read_or_refused_with_what_to_install(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"smiles": [a for a, _ in ROWS], "logS": [float(b) for _, b in ROWS]})
    for ending, write, package in ((".xlsx", frame.to_excel, "openpyxl"), (".parquet", frame.to_parquet, "pyarrow")):
        path, out = tmp_path / f"data{ending}", tmp_path / f"out{ending}"
        if importlib.util.find_spec(package) is None:
            path.write_bytes(b"PK")
            with pytest.raises(UserError, match=f"reading it needs {package}"):
                prepare(path, SETTINGS, out, "none", workers=1, progress=False)
        else:
            write(path, index=False)
            assert content(path, out) == ([a for a, _ in ROWS], [float(b) for _, b in ROWS])


def test_an_sd_file_keeps_its_structures(tmp_path):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    path = tmp_path / "data.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for smiles, value in ROWS[2:6]:
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            AllChem.EmbedMolecule(mol, randomSeed=1)
            mol.SetProp("logS", value)
            writer.write(mol)
    data = prepare(path, Settings(targets=("logS",), inputs="2d+3d"), tmp_path / "out", "none", workers=1, progress=False)
    assert data.store.manifest.molecules_with_3d == 4
    assert data.store.labels([0, 1, 2, 3])[:, 0].tolist() == [float(value) for _, value in ROWS[2:6]]


def test_conformers_are_made_where_inputs_need_them(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("smiles,logS\n" + "\n".join(",".join(row) for row in ROWS[8:11]))
    with_3d = [
        prepare(path, Settings(targets=("logS",), inputs=inputs), tmp_path / inputs, "none", workers=1, progress=False).store
        for inputs in ("2d", "2d+3d")
    ]
    assert [store.manifest.molecules_with_3d for store in with_3d] == [0, 3]


def test_targets_are_columns_lists_or_patterns(tmp_path):
    columns = ["NR-AR", "NR-AhR", "SR-p53", "a,b", "gap [eV]", "odd:regression"]

    def found(*asked, kind=""):
        return [(label.name, label.kind, label.unit) for label in targets_of(asked, kind, columns, tmp_path)]

    assert found("NR-*", "SR-p53:classification") == [("NR-AR", "", ""), ("NR-AhR", "", ""), ("SR-p53", "classification", "")]
    assert found("NR-AR,SR-p53", kind="classification") == [("NR-AR", "classification", ""), ("SR-p53", "classification", "")]
    assert found("a,b") == [("a,b", "", "")]
    assert found("gap [eV]") == [("gap [eV]", "", "eV")]
    assert found("gap [eV]:regression:meV") == [("gap [eV]", "regression", "meV")]
    assert found("odd:regression") == [("odd:regression", "", "")]
    for asked, message in ((("x",), "no column 'x'; there are: NR-AR"), ((), "Name it with --target; there are: NR-AR")):
        with pytest.raises(UserError, match=message):
            found(*asked)
    assert unit_of("logS (mol/L)") == "mol/L"
    assert unit_of("logS") == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.smi", "CCO ethanol\nCCN\n", "has no values to learn from"),
        ("table.csv", "structureless,logS\nCCO,1\n", "Name it with --smiles-column; there are: structureless, logS"),
        (
            "mixed.csv",
            "smiles,logS,active\n" + "".join(f"{'C' * (i + 1)},{i / 7},{i % 2}\n" for i in range(20)),
            "all quantities or all classes",
        ),
    ],
)
def test_what_cannot_be_learned_is_told(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    targets = ("logS", "active:classification") if "active" in text else ("logS",)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / name, Settings(targets=targets), tmp_path / "out", "none", workers=1, progress=False)
