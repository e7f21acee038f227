"""The pages say what results.csv and the formulas say."""

import pytest

from benchmarks.harness import RESULTS, ROOT
from benchmarks.report import ALL, BLOCK, PAGES, all_of, figure, fill, last_run, pivot, read

DRAWN = [page for page in PAGES if BLOCK.search(page.read_text())]
PAGE = ROOT / "docs" / "page.md"


@pytest.mark.parametrize("page", DRAWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_drawn_from_the_rows(page):
    text = page.read_text()
    assert text == fill(text, read(RESULTS), page), "run `python -m benchmarks report`"
    assert all(figure(name).exists() for kind, name in BLOCK.findall(text) if kind == "picture")


def test_the_results_are_drawn_from_the_rows():
    assert ALL.read_text() == all_of(read(RESULTS)), "run `python -m benchmarks report`"
    assert {"performance.md", "reliability.md", "scaling.md"} <= {page.name for page in DRAWN}


def row(**change):
    base = {"benchmark": "step", "case": "a", "metric": "m", "unit": "x", "p20": "1", "p50": "2", "p80": "3", "repeats": "5"}
    return {**base, "target": ">= 2", "device": "AMD, 2 cores", "versions": "v", "commit": "c1", "date": "d", "others": "", **change}


def test_of_each_benchmark_and_kind_of_device_the_last_run_counts():
    rows = [
        row(),
        row(commit="c2", p50="4"),
        row(commit="c2", p50="5"),
        row(commit="c3", device="NVIDIA H200"),
        row(benchmark="data", commit="c4"),
    ]
    assert [(r["commit"], r["p50"]) for r in last_run(rows, "step", "cpu")] == [("c2", "5")]
    assert [r["commit"] for r in last_run(rows, "step", "cuda")] == ["c3"]
    assert last_run(rows, "attention", "cpu") == []


def test_a_page_is_filled():
    page = "before\n<!-- rows: step -->\nold\n<!-- end -->\nafter\n<!-- rows: attention -->\n<!-- end -->\n"
    rows = [row(p50="12345.6"), row(case="b", others="1.26")]
    filled = fill(page, rows, PAGE)
    assert "old" not in filled
    assert "| a | 12,346 |\n| b | 2 |\n" in filled
    assert "AMD, 2 cores; v; commit c1, d; other programs kept 1.3 to 1.3 cores busy" in filled
    assert "no rows yet" in filled
    assert filled == fill(filled, rows, PAGE)


def test_the_results_have_quantiles_and_aims():
    page = all_of([row(p50="12345.6"), row(device="NVIDIA H200", repeats="1")])
    assert "## step, cpu\n\nAMD, 2 cores; v; commit c1, d\n" in page
    assert "| a | m | 12,346 | 1 - 3 | x | >= 2 |" in page
    assert "## step, cuda\n\nNVIDIA H200" in page
    assert "| a | m | 2 |  | x | >= 2 |" in page


def test_the_longer_side_of_a_table_goes_down():
    rows = [row(metric=metric, unit=unit, p50=value) for metric, unit, value in (("m", "", "1"), ("n", "s", "2"))]
    assert pivot(rows) == "|  | a |\n| --- | ---: |\n| m | 1 |\n| n (s) | 2 |"
    assert pivot([row(), row(case="b", p50="3")]) == "|  | m (x) |\n| --- | ---: |\n| a | 2 |\n| b | 3 |"
