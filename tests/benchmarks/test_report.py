"""docs/performance.md says what results.csv says."""

from benchmarks.harness import RESULTS
from benchmarks.report import BLOCK, PAGE, figure, fill, last_run, read


def test_the_page_is_drawn_from_the_rows():
    page = PAGE.read_text()
    assert page == fill(page, read(RESULTS)), "run `python -m benchmarks report`"
    assert len(BLOCK.findall(page)) >= 6
    for kind, name, device in BLOCK.findall(page):
        assert kind == "table" or not last_run(read(RESULTS), name, device) or figure(name, device).exists()


def row(**change):
    base = {"benchmark": "step", "case": "a", "metric": "m", "unit": "x", "p20": "1", "p50": "2", "p80": "3", "repeats": "5"}
    return {**base, "target": ">= 2", "device": "AMD, 2 cores", "versions": "v", "commit": "c1", "date": "d", **change}


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
    page = "before\n<!-- table: step cpu -->\nold\n<!-- end -->\nafter\n<!-- table: attention cuda -->\n<!-- end -->\n"
    filled = fill(page, [row(p50="12345.6")])
    assert "old" not in filled
    assert "| a | m | 12,346 | 1 - 3 | x | >= 2 |" in filled
    assert "no rows yet" in filled
    assert filled == fill(filled, [row(p50="12345.6")])
