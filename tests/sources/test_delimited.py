"""Tables as text: delimiters, quotes that are closed and quotes that are not, names of columns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.csv_and_smiles import CsvSource
from moleblend_fs.sources.delimited import Table, column_indices
from moleblend_fs.sources.labels import parse_label

SMILES = ["CCO", "CCN", "CCC", "CCCl", "CCBr", "c1ccccc1", "c1ccccc1O", "CC(=O)O", "CC(=O)N", "C1CCCCC1"]


def table(tmp_path, text, wanted=("smiles",)):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    return Table(path, [[name] for name in wanted])


def source(tmp_path, text, labels=("y:regression",), **options):
    read = table(tmp_path, text)
    specs = [parse_label(label, read.header) for label in labels]
    return CsvSource(read, smiles_column="smiles", labels=specs, build=BuildOptions(), splitter=Splitter(kind="random"), **options)


def results(made):
    return [made.parse(raw) for _, raw in made.rows(0)]


def outcome(made):
    """SMILES of the molecules, and None for failures, in order; every row once."""
    rows = list(made.rows(0))
    assert [row for row, _ in rows] == list(range(len(rows)))
    assert len(rows) == made.num_rows()
    return [None if isinstance(graph, Failure) else graph.smiles for graph in (made.parse(raw) for _, raw in rows)]


@pytest.mark.parametrize(("delimiter", "name"), [(",", ""), ("\t", "tabs"), (";", "semicolons"), ("|", "bars")])
def test_delimiters(tmp_path, delimiter, name):
    text = "smiles,name,y\n".replace(",", delimiter) + "".join(
        f'{s}{delimiter}"x{delimiter} ""y"""{delimiter}{i}.5\n' for i, s in enumerate(SMILES)
    )
    made = source(tmp_path, text)
    assert outcome(made) == SMILES
    assert [float(graph.labels[0]) for graph in results(made)] == [i + 0.5 for i in range(10)]
    assert (name in made.notes[0]) if name else made.notes == ()


def test_a_delimiter_is_chosen_by_the_columns_asked_for(tmp_path):
    assert table(tmp_path, "name, long\tsmiles\ny, x\tCCO\n").header == ["name, long", "smiles"]
    assert table(tmp_path, "smiles\nCCO\n").header == ["smiles"]
    excel = table(tmp_path, "sep=;\nsmiles;y\nCCO;1\n")
    assert (excel.header, [row.cells for row in excel.rows()]) == (["smiles", "y"], [["CCO", "1"]])
    with pytest.raises(UserError, match="no column 'smiles'; the file has: a, b"):
        column_indices("f", table(tmp_path, "a;b\n1;2\n").header, ["smiles"])


def test_decimal_commas_where_a_comma_separates_nothing_else(tmp_path):
    made = source(tmp_path, "smiles;y;z\nCCO;0,5;1\nCCN;-12,25;2\nCCC;3;x\n")
    assert [float(graph.labels[0]) for graph in results(made)] == [0.5, -12.25, 3.0]
    assert "decimal commas in y" in made.notes[1]
    # 1,234 may be thousands, and a column with points has other uses for commas: told, not guessed.
    with pytest.raises(UserError, match="decimal point in place of the comma"):
        source(tmp_path, "smiles;y\nCCO;1,234\nCCN;2,345\n")
    mixed = results(source(tmp_path, "smiles;y\nCCO;1,5\nCCN;2.5\n"))
    assert "decimal point" in mixed[0].reason
    assert mixed[1].labels.tolist() == [2.5]


STRAY = {  # what stands in row 3 -> its outcome; all other rows are read
    'CCCl,-1.5,"5 inch vial': None,
    '"CCCl,-1.5,x': None,
    'CCCl,"-1.5,x': None,
    '"CC"Cl,1,x': None,
    'CCCl,1.5,"x"y': None,
    'CCCl,1.5,5" vial': "CCCl",
    'CCCl,1.5,"5"" vial"': "CCCl",
    'CCCl,"1.5",x': "CCCl",
    'CC"Cl,1.5,x': None,
    'CCCl,1.5,x,"y': None,
}


@pytest.mark.parametrize("row", STRAY)
@pytest.mark.parametrize("last", [False, True])
def test_a_stray_quote_spoils_its_own_row_alone(tmp_path, row, last):
    lines = [f"{s},{-i}.5,cmpd {i}" for i, s in enumerate(SMILES)]
    lines[-1 if last else 3] = row
    expected = list(SMILES)
    expected[-1 if last else 3] = STRAY[row]
    assert outcome(source(tmp_path, "smiles,y,name\n" + "\n".join(lines) + "\n")) == expected


def test_two_stray_quotes_that_would_close_each_other(tmp_path):
    lines = [f"{s},{i}.5,cmpd {i}" for i, s in enumerate(SMILES)]
    for i, j in ((2, 3), (2, 7)):
        changed = list(lines)
        changed[i], changed[j] = f'{SMILES[i]},0.5,"5 inch', f'{SMILES[j]},0.5,6 inch"'
        got = outcome(source(tmp_path, "smiles,y,name\n" + "\n".join(changed)))
        assert got == [None if k == i else s for k, s in enumerate(SMILES)]


@pytest.mark.parametrize("columns", [("smiles", "y", "note"), ("note", "smiles", "y"), ("y", "note", "smiles")])
@pytest.mark.parametrize("note", ['"line one\nline ""two"", 0"', '"a\r\n\r\nb, c, d"', '"\n"', '"1,2,3\nx\n4,5,6"'])
def test_cells_over_several_lines_are_cells(tmp_path, columns, note):
    cells = [{"smiles": s, "y": f"{i}.5", "note": note} for i, s in enumerate(SMILES)]
    text = "\n".join([",".join(columns), *(",".join(row[name] for name in columns) for row in cells)])
    assert outcome(source(tmp_path, text)) == SMILES


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_quote_anywhere_makes_rows_vanish(tmp_path_factory, data):
    """Up to three quotes at random places of a table: every line is a molecule or a failure, untouched lines are molecules."""
    lines = [f"{s},{i}.5,cmpd {i}" for i, s in enumerate(SMILES)]
    touched = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    for i in touched:
        place = data.draw(st.integers(0, len(lines[i])))
        lines[i] = lines[i][:place] + '"' + lines[i][place:]
    got = outcome(source(tmp_path_factory.mktemp("t"), "smiles,y,name\n" + "\n".join(lines)))
    assert len(got) == len(lines)
    assert [s for i, s in enumerate(got) if i not in touched] == [s for i, s in enumerate(SMILES) if i not in touched]


def test_a_header_over_two_lines(tmp_path):
    made = source(tmp_path, '"smiles","y","log\nS"\nCCO,1.5,2\n')
    assert made.options()["columns"] == ["smiles", "y"]
    assert outcome(made) == ["CCO"]
    with pytest.raises(UserError, match="the header, has a quote"):
        table(tmp_path, '"smiles,y\nCCO,1\n')


def test_two_columns_of_one_name(tmp_path):
    text = "smiles,y,y,z\nCCO,1.5,2,3\n"
    with pytest.raises(UserError, match=r"2 columns are named 'y' \(columns 2, 3\)"):
        source(tmp_path, text)
    assert outcome(source(tmp_path, text, labels=["z:regression"])) == ["CCO"]
    with pytest.raises(UserError, match="2 columns are named 'smiles'"):
        source(tmp_path, "smiles,smiles,y\nCCO,CCN,1.5\n")


def test_large_cells_blank_lines_and_a_blank_smiles(tmp_path):
    big = "x" * 200_000
    made = source(tmp_path, f'\nsmiles,y,image\nCCO,1.5,{big}\n\n \nCCN,2.5,"{big}\n{big}"\n,,\n,3.5,\n')
    assert outcome(made) == ["CCO", "CCN", None, None]
    assert made.left_out() == {"blank": 2}
    assert results(made)[2].reason == "no SMILES"


TRAILING = {
    "CC(=O)NCCC CCCC(=O)O": False,
    "CCO\tCCN": False,
    "CCO ethanol": False,
    "CCO\u00a0CCN": False,
    "CCO\x00N": False,
    "  CCO  ": True,
    "CC(C)C |$;;R1;$|": True,
    "[CH2]C |^1:0|": True,
    "CCO |x": False,
    "CCO |(0,0,;1,0,;2,0,)| ethanol": False,
}


@pytest.mark.parametrize("smiles", TRAILING)
def test_text_after_a_smiles(tmp_path, smiles):
    (graph,) = results(source(tmp_path, f'smiles,y\n"{smiles}",1.5\n'))
    assert isinstance(graph, Failure) != TRAILING[smiles]
    if isinstance(graph, Failure):
        assert "Trailing text" in graph.reason


def test_splits_by_their_usual_names(tmp_path):
    text = "smiles,y,part\n" + "".join(
        f"CCO,{i}.5,{name}\n" for i, name in enumerate(["Train", "TRAIN ", "val", "Validation", "test", "fold 3"])
    )
    made = source(tmp_path, text, split_column="part")
    # Two spellings of validation may be two splits.
    assert [graph.split for graph in results(made)] == ["train", "train", "val", "Validation", "test", "fold 3"]
    assert "'Train' as 'train'" in made.notes[0]
    made = source(tmp_path, text.replace("Validation", "VAL"), split_column="part")
    assert [graph.split for graph in results(made)][2:4] == ["valid", "valid"]


@pytest.mark.parametrize("name", ["a/b", "a\\b", "../x", "a,b", "x\x00y", "x" * 300, ".."])
def test_names_that_no_split_can_have_are_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(UserError, match="split"):
        source(tmp_path, f'smiles,y,part\nCCO,1.5,train\nCCN,2.5,"{name}"\n', split_column="part")


def test_a_column_that_is_no_split(tmp_path):
    text = "smiles,y,part\n" + "".join(f"CCO,{i}.5,name{i}\n" for i in range(200))
    with pytest.raises(UserError, match="200 different values"):
        source(tmp_path, text, split_column="part")


def test_labels_by_name_with_spaces_around(tmp_path):
    spec = LabelSpec(name="y", unit="", kind="regression")
    made = CsvSource(
        table(tmp_path, "smiles, y \nCCO,1.5\n"),
        smiles_column="smiles",
        labels=[spec],
        build=BuildOptions(),
        splitter=Splitter(kind="none"),
    )
    assert results(made)[0].labels.tolist() == [1.5]
