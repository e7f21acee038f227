"""Every number with a unit in the pages cites a row of a committed table, or the line of ours that sets it."""

import pytest

from tests.docs.blocks import ROOT
from tests.docs.claims import Citation, citations, pages, uncited


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_number_with_a_unit_is_cited_and_right(page):
    text = page.read_text()
    assert uncited(text) == [], "see CONTRIBUTING.md, Claims"
    found, alone = citations(page, text)
    assert alone == [], "links without a definition, or definitions without a link"
    assert [f"{citation.shown}: {wrong}" for citation in found if (wrong := citation.wrong())] == []


@pytest.mark.parametrize(
    "text",
    [
        "takes 3.5 minutes on two idle cores",
        "206 against 97 GFLOP/s on one core",
        "it adds 0.6 s to each start",
        "some 1,200 molecules/s were seen",
        "is 2.4 x as fast",
        "three times faster: 3 times",
        "from 2D 417 meV",
        "in meV: 1,012 for the mean predictor",
        "needs 37 GiB, or 21 with another option",
        "within 19 % of it",
        "-10 to +14 % off",
        "a run of ten minutes",
        "| a | 12 ms |",
        "About 0.22\xa0GiB of it",
        "Test MAE in meV:\n\n| input | scratch |\n| --- | --- |\n| 2D | 436.9 |",
        "| ms | DDP |\n| --- | ---: |\n| base | 23 / 23 |",
        "cited [3 s][here], but 4 s is not",
    ],
)
def test_a_number_without_a_source_is_found(text):
    assert uncited(f"# Page\n\n{text}\n") != []


@pytest.mark.parametrize(
    "text",
    [
        "`--row-timeout 60 s` is code",
        "\n    sleep 3 s\n\n",
        "```\n12 ms\n```",
        "<!-- rows: drill -->\n| a | 12 ms |\n<!-- end -->",
        "[12 ms][row] is cited",
        "16 x 64 = 1,024 molecules, 12 layers of width 768, 2D and 3D, sm_90, python 3.11",
        "| name | weight |\n| --- | --- |\n| spd | 0.1 |",
        '[row]: ../benchmarks/results.csv "a, 12 ms | b"',
    ],
)
def test_what_is_no_claim_is_left_alone(text):
    assert uncited(f"# Page\n\n{text}\n") == []


HEAD = "benchmark,case,metric,unit,p20,p50,p80,repeats,target,device,versions,commit,date,others\n"


def test_a_citation_that_says_something_else_is_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "a.csv").write_text(f"{HEAD}b,c,m,ms,1,12.34,3,5,,AMD,v,abc1234,d,\nb,c,dirty,ms,1,12,3,5,,AMD,v,abc1234+,d,\n")
    (tmp_path / "a.py").write_text("LIMIT = 60\n")
    ask = {
        ("12.3 ms", "a.csv", "b | c | m"): None,
        ("12 ms", "a.csv", "b | c | m"): None,
        ("12.4 ms", "a.csv", "b | c | m"): "12.4 ms is shown, the row says 12.34",
        ("12 s", "a.csv", "b | c | m"): "shown in 's', measured in 'ms'",
        ("12 ms", "a.csv", "b | c | n"): "no row 'b | c | n'",
        ("12 ms", "a.csv", "b | c | dirty"): "the row 'b | c | dirty' is of no clean commit, or lacks its circumstances",
        ("12 ms", "b.csv", "b | c | m"): "there is no b.csv",
        ("12.34 ms", "a.csv", "b,c,m,ms,1,12.34,3,5,,AMD,v,abc1234,d"): None,
        ("12.3 ms", "a.csv", "b,c,m,ms,1,12.34,3,5,,AMD,v,abc1234,d"): "'12.3 ms' is no cell of 'b,c,m,ms,1,12.34,3,5,,AMD,v,abc1234,d'",
        ("60 s", "a.py", "LIMIT = 60"): None,
        ("60 s", "a.py", "LIMIT = 30"): "a.py does not hold 'LIMIT = 30'",
        ("60 s", "a.py", ""): "a.py does not hold ''",
        ("3 TB/s", "https://example.org", ""): None,
    }
    assert {key: Citation(page, *key).wrong() for key in ask} == ask


def test_links_and_definitions_belong_together(tmp_path):
    found, alone = citations(tmp_path / "p.md", 'a [1 s][x] and [2 s][y]\n\n[x]: a.csv "b | c | d"\n[z]: a.py "t"\n')
    assert [(c.shown, c.target, c.title) for c in found] == [("1 s", "a.csv", "b | c | d")]
    assert alone == ["y", "z"]
