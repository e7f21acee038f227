"""The eleven sets: columns, missing labels, scaffold split."""

import csv
import gzip
from collections import defaultdict

import numpy as np
import pytest
from rdkit.Chem.Scaffolds import MurckoScaffold

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.moleculenet import SETS, open_moleculenet

SIZES = {  # molecules in the files, tasks
    "bace": (1513, 1),
    "bbbp": (2039, 1),
    "clintox": (1478, 2),
    "esol": (1128, 1),
    "freesolv": (642, 1),
    "hiv": (41913, 1),
    "lipo": (4200, 1),
    "muv": (93127, 17),
    "sider": (1427, 27),
    "tox21": (7831, 12),
    "toxcast": (8615, 617),
}


def open_set(path, name=None, scaffold=None):
    return open_moleculenet(path, set_name=name, build=BuildOptions(scaffold=scaffold), splitter=Splitter(kind="scaffold"))


@pytest.mark.parametrize("name", SETS)
def test_every_shared_file(shared, name):
    path = shared / "data" / "moleculenet" / f"{name}.csv.gz"
    source = open_set(path)
    assert (source.num_rows(), len(source.labels)) == SIZES[name]
    assert {label.kind for label in source.labels} == {SETS[name].kind}
    seen = 0
    for row, raw in source.rows(0):
        graph = source.parse(raw)
        if not isinstance(graph, Failure):
            cells = np.array([float(cell or "nan") for cell in raw.labels])
            np.testing.assert_array_equal(graph.labels, cells)
            seen += 1
        if row == 60:
            break
    assert seen >= 58


DEEPCHEM = {  # header of DeepChem's file, and a row
    "BBBP.csv": ("num,name,p_np,smiles", "1,Propanolol,1,CC(C)NCC(O)COc1cccc2ccccc12", [1]),
    "delaney-processed.csv": (
        "Compound ID,ESOL predicted log solubility in mols per litre,Minimum Degree,measured log solubility in mols per litre,smiles",
        "Amigdalin,-0.974,1,-0.77,OCC3OC(O)C(O)C(O)C3O",
        [-0.77],
    ),
    "SAMPL.csv": ("iupac,smiles,expt,calc", '"4-methoxy-N,N-dimethyl-benzamide",CN(C)C(=O)c1ccc(cc1)OC,-11.01,-9.625', [-11.01]),
    "Lipophilicity.csv": ("CMPD_CHEMBLID,exp,smiles", "CHEMBL596271,3.54,Cn1c(CN2CCN(CC2)c3ccc(Cl)cc3)nc4ccccc14", [3.54]),
    "bace.csv": ("mol,CID,Class,Model,pIC50", "O1CCCC1,BACE_1,1,Train,9.1", [1]),
    "HIV.csv": ("smiles,activity,HIV_active", "CCC1=[O+][Cu-3]2([O+]=C(CC)C1)[O+]=C(CC)CC(CC)=[O+]2,CI,0", [0]),
    "tox21.csv.gz": ("NR-AR,NR-AhR,mol_id,smiles", "0,,TOX3021,CCO", [0, np.nan]),
    "clintox.csv.gz": ("smiles,FDA_APPROVED,CT_TOX", "CCO,1,0", [1, 0]),
}


@pytest.mark.parametrize("file", DEEPCHEM)
def test_deepchems_own_columns(tmp_path, file):
    header, row, labels = DEEPCHEM[file]
    path = tmp_path / file
    with gzip.open(path, "wt") if file.endswith("gz") else open(path, "w") as stream:
        stream.write(f"{header}\n{row}\n")
    source = open_set(path)
    [(_, raw)] = source.rows(0)
    np.testing.assert_array_equal(source.parse(raw).labels, np.array(labels))


def test_bad_rows_are_failures(tmp_path):
    path = tmp_path / "bbbp.csv"
    path.write_text('smiles,p_np\nCCO,1\nCCO,2\nCCO,x\nCCO\nC1CC,1\n"C,C",1\nCCN,\n')
    source = open_set(path)
    results = [source.parse(raw) for _, raw in source.rows(0)]
    reasons = [r.reason if isinstance(r, Failure) else "" for r in results]
    assert reasons[0] == ""
    assert "a class must be 0, 1 or empty" in reasons[1]
    assert "not a number" in reasons[2]
    assert "1 column, the header 2" in reasons[3]
    assert "unclosed ring" in reasons[4]
    assert "RDKit" in reasons[5]
    assert np.isnan(results[6].labels).all()


def test_wrong_files(tmp_path):
    other = tmp_path / "mine.csv"
    other.write_text("smiles,y\nC,1\n")
    with pytest.raises(UserError, match="which MoleculeNet set"):
        open_set(other)
    with pytest.raises(UserError, match=r"no label column 'p_np' for bbbp; the file has: smiles, y"):
        open_set(other, name="bbbp")
    with pytest.raises(UserError, match="no such file"):
        open_set(tmp_path / "bbbp.csv")
    (tmp_path / "tox21.csv").write_text("SMILES,a\nC,1\n")
    with pytest.raises(UserError, match="no column of SMILES"):
        open_set(tmp_path / "tox21.csv")
    (tmp_path / "hiv.csv").write_text("")
    with pytest.raises(UserError, match="empty"):
        open_set(tmp_path / "hiv.csv")
    cut = tmp_path / "lipo.csv.gz"
    cut.write_bytes(gzip.compress(b"smiles,lipo\n" + b"CCO,1\n" * 10_000, mtime=0)[:-20])
    with pytest.raises(UserError, match="cut short"):
        list(open_set(cut).rows(0))


def hu_split(smiles, chirality, fractions=(0.8, 0.1, 0.1)):
    """The procedure of Hu et al. 2020, written down independently: all groups in a list, sorted, dealt out one by one."""
    groups = defaultdict(list)
    for i, s in enumerate(smiles):
        groups[MurckoScaffold.MurckoScaffoldSmiles(smiles=s, includeChirality=chirality)].append(i)
    ordered = [g for _, g in sorted(groups.items(), key=lambda item: (len(item[1]), item[1][0]), reverse=True)]
    cut_train, cut_valid = fractions[0] * len(smiles), (fractions[0] + fractions[1]) * len(smiles)
    train, valid, test = [], [], []
    for group in ordered:
        if len(train) + len(group) > cut_train:
            if len(train) + len(valid) + len(group) > cut_valid:
                test.extend(group)
            else:
                valid.extend(group)
        else:
            train.extend(group)
    return train, valid, test


@pytest.mark.parametrize("chirality", [True, False])
def test_scaffold_split_is_hus(shared, chirality):
    path = shared / "data" / "moleculenet" / "bace.csv.gz"
    source = open_set(path, scaffold="chiral" if chirality else "plain")
    graphs = [source.parse(raw) for _, raw in source.rows(0)]
    assert not any(isinstance(g, Failure) for g in graphs)
    splitter = Splitter(kind="scaffold", chirality=chirality)
    ours = splitter(rows=np.arange(len(graphs)), prescribed=[], scaffolds=[g.scaffold for g in graphs])
    with gzip.open(path, "rt") as stream:
        theirs = hu_split([row["smiles"] for row in csv.DictReader(stream)], chirality)
    for name, part in zip(("train", "valid", "test"), theirs, strict=True):
        assert ours[name].tolist() == sorted(part)
    # No scaffold on two sides.
    sides = [{graphs[i].scaffold for i in part} for part in ours.values()]
    assert len(set.union(*sides)) == sum(map(len, sides))
