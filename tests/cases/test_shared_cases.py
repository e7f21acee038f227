"""Inputs of public bug reports and attacks, one folder each: the right value of every one.

Cases of training are in tests/cases/test_cases_of_training.py; a folder that neither names fails.
"""

import math
import shutil
from dataclasses import dataclass, field

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from tests.cases.commands import account, moleblend, preprocess
from tests.cases.test_cases_of_training import TRAINED

NAN = math.nan


@dataclass(frozen=True)
class Case:
    """A file of a case and what `moleblend preprocess` has to make of it.

    Attributes:
        rows: of the source that hold anything; None where the command has to refuse the file.
        failed: row -> part of the reason, for rows without a molecule.
        with_3d: all rows with a structure.
        labels: row -> values.
        says: what the command has to say.
    """

    source: str
    file: str
    options: tuple[str, ...] = ()
    rows: int | None = None
    failed: dict[int, str] = field(default_factory=dict)
    with_3d: tuple[int, ...] | None = None
    labels: dict[int, tuple[float, ...]] = field(default_factory=dict)
    says: tuple[str, ...] = ()


def csv(file: str = "in.csv", *labels: str, **about) -> Case:
    return Case("csv", file, tuple(word for label in labels for word in ("--label", label)), **about)


def sdf(file: str = "in.sdf", *options: str, **about) -> Case:
    return Case("sdf", file, options, **about)


def unimol(file: str = "", *options: str, **about) -> Case:
    return Case("unimol", file, options, **about)


TEN = range(10)
CASES: dict[str, tuple[Case, ...]] = {
    "01-unbalanced-quote": (csv("in.csv", "logS", rows=10, failed={3: "quote"}),),
    "03-float32-range": (
        csv("si.csv", "beta_SI", rows=10, labels={0: (3.3e-51,), 1: (4.4e-51,)}),
        csv("alpha_si.csv", "alpha_SI", rows=10),
        csv("huge.csv", "y", rows=10, labels={0: (3e38,), 7: (1e39,), 9: (1.2e39,)}),
    ),
    "04-total-energies": (csv("offset.csv", "E_kJ_mol", rows=112, labels={0: (-3200000.1016,), 1: (-3200000.1461,)}),),
    "05-bom-quoted-header": (csv("in.csv", "logS", rows=10),),
    "06-semicolon": (csv("in.csv", "logS", rows=10, says=("semicolons", "decimal commas")),),
    "07-tsv": (csv("in.tsv", "logS", rows=10, says=("tabs",)),),
    "08-crlf-quotes-newline": (csv("in.csv", "logS", rows=10),),
    "09-dup-columns": (csv("in.csv", "logS", says=("2 columns are named 'logS'",)),),
    "10-utf16": (csv("in.csv", "logS", rows=10, says=("UTF-16",)),),
    "11-latin1-header": (csv("in.csv", "logS", rows=10, says=("not UTF-8",)),),
    "12-multitask-NA": (
        csv(
            *("in.csv", "a", "b", "c"),
            rows=10,
            failed={6: "'>10'", 7: "decimal point", 8: "'True'", 9: "infinite"},
            labels={0: (1, 0, 0), 1: (NAN, 1, 2), 2: (NAN, 2, 4), 3: (NAN, 3, 6), 4: (NAN, 4, 8), 5: (NAN, 5, 10)},
        ),
    ),
    "13-multiclass": (
        csv("in.csv", "cls:classification", says=("'0' (4 x), '1' (3 x), '2' (3 x)",)),
        csv("pm1.csv", "cls:classification", says=("'-1' (5 x), '1' (5 x)",)),
        csv("bool.csv", "cls:classification", rows=10, labels={i: (i in (1, 3, 5, 7, 9),) for i in TEN}),
    ),
    "15-constant": (csv("in.csv", "y", "allmissing", rows=10, labels=dict.fromkeys(TEN, (0.1, NAN))),),
    "16-single-row": (csv("in.csv", "y", rows=1, labels={0: (0.1,)}),),
    "17-cr-only": (csv("in.csv", "y", rows=10),),
    "19-odd-smiles": (
        csv(
            *("in.csv", "y"),
            rows=34,
            failed={2: "blank", 3: "blank", 16: "[R1]", 17: "unclosed", 28: "", 29: "", 30: "", 33: ""},
        ),
    ),
    "21-planar-3d": (sdf(rows=10, with_3d=tuple(TEN)), sdf("mixed.sdf", rows=10, with_3d=tuple(TEN))),
    "23-nan-sdf": (sdf(rows=2, failed={0: ""}, with_3d=(1,)),),
    "24-v3000": (sdf(rows=3, with_3d=(0, 1, 2)),),
    "26-2d": (sdf(rows=3, with_3d=()),),
    "27-query-atoms": (sdf(rows=3, with_3d=()),),
    "28-sdf-labels": (
        sdf(*("in.sdf", "--label", "pIC50"), rows=7, failed={1: "not a number", 2: "bound"}, labels={0: (6.5,), 5: (4,), 6: (4,)}),
        sdf("colon.sdf", "--label", "logP:exp", rows=3, labels=dict.fromkeys(range(3), (1.5,))),
    ),
    "29-sdf-no-coordinates": tuple(sdf(name, rows=10, with_3d=()) for name in ("export_0d.sdf", "no_tag.sdf", "rdkit_0d.sdf")),
    "30-polar-hydrogens": (sdf(rows=2, with_3d=(0, 1)), sdf("in.sdf", "--hydrogens", "explicit", says=("no molecule could be read",))),
    "31-isotopes-h2": (sdf(rows=9, with_3d=tuple(range(9))),),
    "35-unimol-mismatch": tuple(unimol(name, says=("no molecule could be read",)) for name in ("in.lmdb", "heavy.lmdb")),
    "33-unimol-keys": (
        unimol("first_without_target.lmdb", rows=8),
        unimol("in.lmdb", rows=8, failed={6: "smi", 7: "3 atoms"}),
    ),
    "34-unimol-unlabelled-test": (unimol(rows=8),),
    "50-fixed-input": (csv("fix.csv", "y", rows=2),),
    "51-large-molecules": (csv("in.csv", "y", rows=34, failed={4: "5000"}),),
    "52-smiles-inner-space": (csv("in.csv", "y", says=("no molecule could be read (5 failures)",)),),
    "53-unimol-missing-minus1": (
        unimol(says=("Uni-Mol's mark of a missing class",)),
        unimol(*("", "--label", "target_0:classification", "--label", "target_1:classification"), rows=10),
    ),
    "54-binary-default-regression": (
        csv("in.csv", "active", says=("active:classification", "active:regression")),
        csv("in.csv", "active:classification", rows=112),
    ),
    "56-big-cell": (csv("in.csv", "y", rows=3, labels={0: (1,), 1: (2,), 2: (3,)}),),
    "57-single-atoms": (csv("in.csv", "y", rows=19),),
    "67-sdf-classes": (
        sdf("in.sdf", "--label", "Class:classification", says=("'active' (2 x), 'inactive' (2 x)",)),
        sdf(*("pm.sdf", "--label", "Class:classification"), rows=6, failed={3: "-1", 4: "2"}, labels={0: (1,), 1: (0,), 5: (NAN,)}),
    ),
    "attack": (
        unimol("hash.lmdb", rows=20, failed={12: "nested more than"}),
        unimol("laughs.lmdb", rows=20, failed={12: "values"}),
        unimol("unimol_heap_leak.lmdb", says=("no molecule could be read",)),
        csv("utf8_row.csv", rows=3, failed={1: "extra close parentheses"}),
        csv("y1e39.csv", "y", rows=300, labels={0: (1e39,), 1: (1,), 2: (2,)}),
        csv("naph400.csv", rows=3),
    ),
}
ELSEWHERE = {
    "trials_exec.txt": "tests/scripts/test_quoting.py",
    "unimol_nan_coordinates.lmdb": "tests/cases/test_structures.py",
    "v3000_1e300.sdf": "tests/cases/test_structures.py",
}
"""Files among the attacks that are no tables, or whose structures are what is wrong -> where they are tried."""


@pytest.mark.parametrize(
    ("folder", "case"),
    [
        pytest.param(folder, case, id=f"{folder}/{' '.join([case.file, *case.options])}".rstrip("/"))
        for folder, cases in CASES.items()
        for case in cases
    ],
)
def test_a_case_gives_the_right_store(folder, case, shared, tmp_path):
    done = preprocess(tmp_path / "store", case.source, shared / "cases" / folder / case.file, *case.options)
    for words in case.says:
        assert words in done.said
    if case.rows is None:
        assert done.code == 2
        assert not (tmp_path / "store").exists()
        return
    assert done.code == 0, done.said
    store = Store(tmp_path / "store")
    failed = account(store, range(case.rows))
    without = {row: reason for row, reason in failed.items() if row not in set(store.source_row.tolist())}
    assert set(without) == set(case.failed)
    for row, reason in case.failed.items():
        assert reason in without[row]
    index = {int(row): i for i, row in enumerate(store.source_row)}
    for row, values in case.labels.items():
        np.testing.assert_array_equal(store.labels([index[row]])[0], np.array(values, dtype=np.float64))
    check_structures(store, case, index)
    assert moleblend("inspect", store.path, "--verify").code == 0


def check_structures(store: Store, case: Case, index: dict[int, int]) -> None:
    """All coordinates are finite numbers, and structures are where they should be."""
    conformers = {row: decode(store.record(i))[1].coordinates for row, i in index.items()}
    assert all(c is None or np.isfinite(c).all() for c in conformers.values())
    if case.with_3d is not None:
        assert {row for row, c in conformers.items() if c is not None} == set(case.with_3d)


def test_every_folder_has_an_expectation(shared):
    known = set(CASES) | set(TRAINED) | set(SPECIAL)
    assert {path.parent.name for path in (shared / "cases").glob("*/README")} - known == set()
    files = {path.name for path in (shared / "cases" / "attack").iterdir()} - {"README"}
    assert files - {case.file for case in CASES["attack"]} - set(ELSEWHERE) == set()


def test_blank_lines_are_no_rows(shared, tmp_path):
    """14: rows are counted as the reader counts them, so that every row that holds anything is a molecule or a failure."""
    assert preprocess(tmp_path / "store", "csv", shared / "cases" / "14-empty-rows" / "in.csv", "--label", "logS").code == 0
    store = Store(tmp_path / "store")
    smiles = [decode(record)[1].smiles for record in store.records(range(len(store)))]
    assert smiles == ["CCO", "CCN", "CCC"]
    np.testing.assert_array_equal(store.labels(range(3))[:, 0], [1, 2, NAN])
    assert set(account(store, store.source_row.tolist()).values()) == {"no SMILES"}


def test_a_mended_file_begins_anew(shared, tmp_path):
    """50: what an earlier, useless file of that name left is no obstacle."""
    path = tmp_path / "in.csv"
    path.write_text("smiles,y\nnonsense,1\n")
    assert preprocess(tmp_path / "store", "csv", path, "--label", "y").code == 2
    shutil.copyfile(shared / "cases" / "50-fixed-input" / "fix.csv", path)
    assert preprocess(tmp_path / "store", "csv", path, "--label", "y").code == 0
    assert len(Store(tmp_path / "store")) == 2


def test_copies_of_a_molecule_stay_together(shared, tmp_path):
    """49: 112 molecules with 60 copies each; no molecule is in two splits, and both commands say that there are copies."""
    done = preprocess(tmp_path / "store", "csv", shared / "cases" / "49-duplicates" / "in.csv", "--label", "logS")
    assert done.code == 0
    store = Store(tmp_path / "store")
    smiles = [Chem.CanonSmiles(decode(record)[1].smiles) for record in store.records(range(len(store)))]
    splits = {name: {smiles[i] for i in store.split(name)} for name in store.splits}
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["valid"]
    assert not splits["valid"] & splits["test"]
    assert all(splits.values())
    assert "copies" in done.said or "duplicate" in done.said or "twice" in done.said or "more than once" in done.said


SPECIAL = ("14-empty-rows", "22-all-zero-coords", "25-multi-conformers", "32-unimol-nan", "49-duplicates", "66-nan-contamination")
"""Folders with tests of their own, here or in tests/cases/test_structures.py."""
