"""Data items of SD files, and their text however it was written."""

import gzip

import pytest
from rdkit import Chem

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.labels import parse_label
from moleblend_fs.sources.sdf import SdfSource
from moleblend_fs.sources.sdf_records import item_names, sdf_items, sdf_records

BLOCK = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
ITEMS = {  # text after "M  END" -> what RDKit gives for pIC50, None for no item
    ">  25 <pIC50> (CMPD-1)\n6.5\n\n> <Comment>\nfirst\n>second <pIC50> 9\nthird\n\n": "6.5",
    "> <Note>\nold:\n> 3 <pIC50> was wrong\n\n>  <pIC50>\n4\n\n": "4",
    ">  <pIC50>\n4\n\n>  <Remark>\nsee\n> below <pIC50> 9\n9.9\n\n": "4",
    "> <pIC50>\n7.5\n8.5\n\n": "7.5\n8.5",
    "> <pIC50>\n\n\n": "",
    "> <pic50>\n5\n\n": None,
    "> <a>\n> <pIC50>\n5\n\n": None,
    "": None,
}


def sd_file(path, *tails, title="m"):
    records = [title + str(i) + "\n" + BLOCK.split("\n", 1)[1] + tail for i, tail in enumerate(tails)]
    path.write_text("$$$$\n".join(records) + "$$$$\n")
    return path


def source(path, *labels, **options):
    specs = [parse_label(label, item_names(path)) for label in labels]
    return SdfSource(path, labels=specs, build=BuildOptions(), splitter=Splitter(kind="random"), **options)


def results(made):
    return [made.parse(raw) for _, raw in made.rows(0)]


@pytest.mark.parametrize("tail", ITEMS)
def test_items_are_those_that_rdkit_finds(tmp_path, tail):
    path = sd_file(tmp_path / "a.sdf", tail)
    (mol,) = Chem.SDMolSupplier(str(path))
    (record,) = sdf_records(path)
    found = sdf_items(record)
    assert (mol.GetProp("pIC50").strip() if mol.HasProp("pIC50") else None) == ITEMS[tail]
    assert found.get("pIC50", [None])[0] == ITEMS[tail]
    assert set(found) == set(mol.GetPropNames())


def test_a_line_of_blanks_is_blank():
    """RDKit would go on to the next empty line."""
    assert sdf_items(BLOCK + "> <y>\n4 \n   \n> <b>\n5\n\n") == {"y": ["4"], "b": ["5"]}


def test_an_item_that_stands_there_twice(tmp_path):
    path = sd_file(tmp_path / "a.sdf", "> <y>\n1.5\n\n> <y>\n2.5\n\n", "> <y>\n3.5\n\n> <y>\n3.5\n\n")
    first, second = results(source(path, "y"))
    assert "stands there 2 times" in first.reason
    assert second.labels.tolist() == [3.5]


def test_names_with_colons_and_items_that_only_later_records_have(tmp_path):
    path = sd_file(tmp_path / "a.sdf", "> <other>\nx\n\n", "> <logP:exp>\n1.5\n\n", "> <LOGP:EXP>\n9.5\n\n")
    made = source(path, "logP:exp:regression:log")
    assert [(label.name, label.unit) for label in made.labels] == [("logP:exp", "log")]
    assert [graph.labels[0] == 1.5 for graph in results(made)] == [False, True, False]
    assert "'LOGP:EXP' in place of 'logP:exp'" in made.notes[0]
    with pytest.raises(UserError, match="no data item 'logD'; the first record has: other"):
        source(path, "logD")


def test_classes_and_kinds_as_in_tables(tmp_path):
    path = sd_file(tmp_path / "a.sdf", *(f"> <c>\n{c}\n\n> <w>\n{w}\n\n" for c, w in zip("010101", ["yes", "no"] * 3, strict=True)))
    with pytest.raises(UserError, match="c:classification"):
        source(path, "c")
    assert [graph.labels.tolist() for graph in results(source(path, "c:classification", "w:classification"))][:2] == [[0, 1], [1, 0]]


def test_splits_from_an_item(tmp_path):
    path = sd_file(tmp_path / "a.sdf", *(f"> <set>\n{name}\n\n" for name in ("TRAIN", "Validation", "test", "")))
    made = source(path, split_item="set")
    *graphs, unnamed = results(made)
    assert [graph.split for graph in graphs] == ["train", "valid", "test"]
    assert unnamed.reason == "no split given"
    assert "'TRAIN' as 'train'" in made.notes[0]
    with pytest.raises(UserError, match="no data item 'part'"):
        source(path, split_item="part")
    with pytest.raises(UserError, match="has the split"):
        source(sd_file(path, "> <set>\na/b\n\n"), split_item="set")


WRITTEN = {
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old mac": lambda text: text.replace("\n", "\r").encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "latin-1": lambda text: text.encode("latin-1"),
    "packed": lambda text: gzip.compress(text.encode()),
    "blanks after marks": lambda text: text.replace("$$$$\n", "$$$$  \n").encode(),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_however_it_was_written(tmp_path, case):
    path = sd_file(tmp_path / "a.sdf", "> <y>\n1.5\n\n", "> <y>\n2.5\n\n", title="Säure")
    plain = path.read_text()
    path.write_bytes(WRITTEN[case](plain))
    made = source(path, "y")
    assert [raw.name for _, raw in made.rows(0)] == ["Säure0", "Säure1"]
    graphs = results(made)
    assert not any(isinstance(graph, Failure) for graph in graphs)
    assert [graph.labels.tolist() for graph in graphs] == [[1.5], [2.5]]
    assert [raw.name for _, raw in made.rows(1)] == ["Säure1"]
    assert bool(made.notes) == (case in ("utf-16", "packed"))
