"""`moleblend explain`: tables, pages and pictures that say the same, and what is refused."""

import csv
import re
from xml.etree import ElementTree

import pytest

from moleblend_fs.cli.main import main
from tests.inference.untrained_models import untrained
from tests.report.layout import CHROMIUM, measured

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(untrained(tmp_path_factory.mktemp("models") / "model", width=64, unit="mol/L"))


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_the_table_has_a_line_for_each_atom_and_each_pair(model, capfd):
    assert main(["explain", model, "CC#N", "bad", "O"]) == 0
    lines = read(capfd.readouterr().out)
    atoms, pairs = ([line for line in lines if line["row"] == "0" and bool(line["to"]) == is_pair] for is_pair in (False, True))
    assert [(line["atom"], line["element"]) for line in atoms] == [("0", "C"), ("1", "C"), ("2", "N")]
    assert [(line["atom"], line["to"], line["to_element"]) for line in pairs] == [("0", "1", "C"), ("0", "2", "N"), ("1", "2", "N")]
    total = sum(float(line["attribution"]) for line in atoms)
    assert total == pytest.approx(float(atoms[0]["prediction"]) - float(atoms[0]["baseline"]), abs=5e-3)
    assert all(float(line["spd"]) and float(line["edge"]) and not line["distance"] and not line["attribution"] for line in pairs)
    [bad] = [line for line in lines if line["row"] == "1"]
    assert bad["smiles"] == "bad"
    assert bad["status"].startswith("no molecule: ")
    assert [line["element"] for line in lines if line["row"] == "2"] == ["O"]
    assert {line["unit"] for line in lines} == {"mol/L", ""}


def test_page_picture_and_table_of_a_file(model, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text(f"id,smiles\n1,{ASPIRIN}\n2,c1cc\n3,[Na+].[Cl-]\n")
    outs = [str(tmp_path / name) for name in ("x.csv", "x.html")]
    assert main(["explain", model, str(tmp_path / "mine.csv"), "-o", outs[0], "-o", outs[1], "--no-progress"]) == 0
    assert "1 of 3 molecules is not explained" in capsys.readouterr().err
    page = (tmp_path / "x.html").read_text()
    lines = read((tmp_path / "x.csv").read_text())
    largest = max((line for line in lines if line["row"] == "0" and not line["to"]), key=lambda line: abs(float(line["attribution"])))
    first_cell = re.search(r"<td>([A-Z]\d+)</td>", page)
    assert first_cell is not None
    assert first_cell[1] == largest["element"] + largest["atom"]
    assert page.count("class='atom-0'") >= 2
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(picture)
    assert "c1cc" in page
    assert "no molecule: " in page
    assert main(["explain", model, "CCO", "-o", str(tmp_path / "x.svg"), "--no-relations"]) == 0
    picture = ElementTree.parse(tmp_path / "x.svg").getroot()
    titles = [title.text for title in picture.iter() if title.tag.endswith("title")]
    assert [title.split(":")[0] for title in titles[1:]] == ["C0", "C1", "O2"]


def test_outputs_take_the_place_of_earlier_ones_when_all_is_computed(model, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("smiles\nCC#N\n")
    out, page, blocked = tmp_path / "x.tsv", tmp_path / "x.html", tmp_path / "folder.html"
    words = ["explain", model, str(tmp_path / "mine.csv"), "--no-progress", "--no-relations"]
    assert main([*words, "-o", str(out), "-o", str(page)]) == 0
    first = out.read_text()
    with open(out, newline="") as stream:
        assert [line["element"] for line in csv.DictReader(stream, delimiter="\t", strict=True)] == ["C", "C", "N"]
    assert main([*words, "-o", str(out)]) == 0
    assert out.read_text() == first
    blocked.mkdir()
    (tmp_path / "mine.csv").write_text("smiles\nCCO\n")
    for wrong in (["-o", str(blocked)], ["-o", str(tmp_path / "x.svg"), "--target", "no such"], [str(tmp_path / "other.csv")]):
        assert main([*words, "-o", str(out), *wrong]) == 2
    assert out.read_text() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.html", "mine.csv", "x.html", "x.tsv"]
    assert f"{tmp_path / 'mine.csv'} is a file, but not all that is given" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")
def test_the_page_in_a_browser(model, tmp_path):
    long = "C" * 40 + "(=O)N[C@@H](C)c1ccc(Br)cc1"
    assert main(["explain", model, ASPIRIN, "CC#N", "C" * 70, "no_molecule_" * 30, "--no-relations", "-o", str(tmp_path / "a.html")]) == 0
    assert main(["explain", model, "CC#N", long, "-o", str(tmp_path / "b.html")]) == 0
    for name, pictures in (("a", 3), ("b", 2 + 4)):
        for found in measured((tmp_path / f"{name}.html").read_text(), tmp_path):
            assert found["faults"] == [], (name, found["width"])
            assert found["counts"]["pictures"] >= pictures


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.csv"], "nothing.csv: no such file"),
        (["CCO", "-o", "x.txt"], "must end in .html, .svg, .csv, .tsv"),
        (["CCO", "CCN", "-o", "x.svg"], "a picture is of one molecule and target, there are 2"),
        (["CCO", "-o", "x.csv", "-o", "./x.csv"], "x.csv is to be written twice"),
        (["CCO", "--target", "z"], "no target 'z'; there are: y"),
        (["CCO", "--row-timeout", "0"], "--row-timeout must be above 0"),
        (["{tmp}"], "is a folder; give SMILES"),
    ],
)
def test_what_is_refused(model, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", model, *(word.format(tmp=tmp_path) for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_picture_of_several_is_refused_before_they_are_computed(model, tmp_path, capsys, monkeypatch):
    from moleblend_fs.predictions.explainer import Explainer

    monkeypatch.setattr(Explainer, "each", lambda *_: pytest.fail("computed"))
    assert main(["explain", model, "CCO", "CCN", "-o", str(tmp_path / "x.csv"), "-o", str(tmp_path / "x.svg")]) == 2
    assert "a picture is of one molecule and target" in capsys.readouterr().err


def test_a_pretrained_model_predicts_nothing_that_could_be_explained(tmp_path, capsys):
    import torch

    from moleblend_fs.checkpoint.read import Checkpoint
    from moleblend_fs.checkpoint.write import save
    from moleblend_fs.model.config import ModelConfig
    from moleblend_fs.model.moleblend import MoleBlend

    torch.manual_seed(0)
    config = ModelConfig(layers=1, embed_dim=16, ffn_dim=16, attention_heads=2, gaussians=8, heads=("spd",))
    save(Checkpoint(config=config, weights=MoleBlend(config).state_dict()), tmp_path / "model")
    assert main(["explain", str(tmp_path / "model"), "CCO"]) == 2
    assert "Traceback" not in capsys.readouterr().err
