"""The notebooks of examples/notebooks: each runs from nothing, with less training, and shows what is committed with it but for numbers."""

import re
import shlex

import nbformat
import pytest

from scripts import notebooks
from tests.docs.blocks import ROOT
from tests.docs.running import parse

SHORTER = {
    "embeddings_and_similarity": (("--limit 1000 ", "--limit 300 "), ("--max-update 120 ", "--max-update 12 ")),
    "pretraining_and_objectives": (
        ("--limit 2000 ", "--limit 300 "),
        ("--max-update 150 ", "--max-update 16 "),
        ('"epochs": 15', '"epochs": 2'),
    ),
    "property_prediction": (("epochs=25", "epochs=4"),),
    "your_own_3d_data": (('"epochs": 50', '"epochs": 4'),),
}
"""What of each is replaced, so that it ends soon. `scripts/notebooks.py` runs them as they are; a check compares no numbers."""


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.names())
def test_it_runs_and_shows_what_is_committed(name):
    committed = notebooks.read(name)
    assert notebooks.differences(committed, notebooks.executed(shorter(name))) == []


def shorter(name: str) -> nbformat.NotebookNode:
    """A notebook with less to compute. AssertionError where something that is to be replaced is not once in it."""
    notebook = notebooks.read(name)
    for old, new in SHORTER[name]:
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        assert cell.source.count(old) == 1, f"{old!r} is not once in {name}"
        cell.source = cell.source.replace(old, new)
    return notebook


@pytest.mark.parametrize("name", notebooks.names())
def test_commands_that_are_only_told_would_be_understood(name, tmp_path):
    told = [cell.source for cell in notebooks.read(name).cells if cell.cell_type == "markdown"]
    for block in re.findall(r"^```\n(.*?)^```", "\n".join(told), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            parse(shlex.split(line), tmp_path)


def test_all_are_on_the_site_and_in_the_folders_table():
    assert len(notebooks.names()) == 4
    site, table = (ROOT / "mkdocs.yml").read_text(), (notebooks.FOLDER / "README.md").read_text()
    assert [name for name in notebooks.names() if f"examples/notebooks/{name}.md" not in site] == []
    assert [name for name in notebooks.names() if f"({name}.ipynb)" not in table] == []


def a_notebook(*sources: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_an_output_that_is_not_what_is_committed_is_found():
    """Lines with numbers may differ, other lines and kinds of output may not; pieces of a stream are one."""
    ran = notebooks.executed(a_notebook("print('a 1'); print('b')", "1 + 1"))
    other = notebooks.cleaned(nbformat.from_dict(ran))
    assert [output.output_type for output in ran.cells[0].outputs] == ["stream"]
    other.cells[0].outputs[0].text = "worse: 17\nb\n"
    assert notebooks.differences(other, ran) == []
    other.cells[0].outputs[0].text = "a 1\nc\n"
    assert [line.partition(" shows")[0] for line in notebooks.differences(other, ran)] == ["cell 0"]
    other.cells[1].outputs = []
    assert [line.partition(" shows")[0] for line in notebooks.differences(other, ran)] == ["cell 0", "cell 1"]
    assert notebooks.differences(a_notebook("1"), ran) == ["1 cells are committed, 2 were run"]


@pytest.mark.cold
def test_a_cell_that_fails_is_an_error():
    with pytest.raises(notebooks.CellExecutionError, match="no such thing"):
        notebooks.executed(a_notebook("raise ValueError('no such thing')"))
    with pytest.raises(notebooks.CellExecutionError, match="CalledProcessError"):
        notebooks.executed(a_notebook("%%bash\nmoleblend inspect nowhere"))
