"""Pages in a real browser, on a phone and on a desk: nothing is clipped, nothing lies on something else, all text can be read."""

import json

import numpy as np
import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.report import html
from tests.cli.test_report import runs, store  # noqa: F401  fixtures
from tests.report.layout import CHROMIUM, measured

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")
LONG = "a_target_whose_name_goes_on_and_on_and_on_without_a_blank_until_no_axis_has_room_for_it"


def check(path, folder, *, pictures: int, texts: int) -> None:
    """No faults at any width; all pictures and their texts were looked at."""
    for found in measured(path.read_text(), folder):
        assert found["faults"] == [], found["width"]
        assert found["counts"]["pictures"] >= pictures
        assert found["counts"]["texts"] >= texts


def classes(folder, targets: list[str], names: list[str]) -> None:
    rng = np.random.default_rng(0)
    for run in names:
        truth = (rng.random((80, len(targets))) < 0.3).astype(float)
        said = np.clip(0.3 * truth + 0.6 * rng.random(truth.shape), 0, 1)
        rows = [
            {"id": i, "smiles": "N#C[C@H](O)" + "C" * (i % 30), "target": t, "prediction": p}
            for i, (t, p) in enumerate(zip(truth.tolist(), said.tolist(), strict=True))
        ]
        metrics = {name: {"roc_auc": 0.8, "pr_auc": 0.7} for name in targets}
        about = {"store": "gone", "split": "test", "split_sha256": "f" * 64, "checkpoint": f"{LONG}/{run}/checkpoint_best.pt"}
        (folder / run).mkdir(parents=True)
        (folder / run / "test.json").write_text(json.dumps({**about, "metrics": metrics, "predictions": rows}))


def test_report_of_pretraining_and_values(runs, tmp_path):  # noqa: F811
    assert main(["report", str(runs), "--output", str(tmp_path / "x.html")]) == 0
    check(tmp_path / "x.html", tmp_path, pictures=45, texts=100)


def test_report_of_classes_with_long_names(tmp_path):
    classes(tmp_path / "runs", [LONG, "b", "c", "d"], ["first", LONG])
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "x.html")]) == 0
    check(tmp_path / "x.html", tmp_path, pictures=12 + 20, texts=100)


@pytest.mark.parametrize("values", [(1e6, 3e6), (-4e-5, 4e-5), (-3_200_000.1, -3_199_999.9), (7.0, 7.0), (1e-30, 1e30)])
def test_report_of_values_of_any_size(tmp_path, values):
    rows = [{"id": i, "smiles": "CC", "target": [x], "prediction": [y]} for i, (x, y) in enumerate(zip(values, values[::-1], strict=True))]
    result = {"store": "gone", "split": "test", "metrics": {LONG: {"mae": 1.0}}, "units": {LONG: "kJ/mol"}, "predictions": rows}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "test.json").write_text(json.dumps(result))
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "x.html")]) == 0
    check(tmp_path / "x.html", tmp_path, pictures=2, texts=8)


def test_page_of_a_store(qm9_store, tmp_path):
    assert main(["inspect", str(qm9_store.path), "--molecules", "8", "--html", str(tmp_path / "x.html")]) == 0
    check(tmp_path / "x.html", tmp_path, pictures=9, texts=4)


@pytest.mark.parametrize("count", [1, 2, 39, 40])
@pytest.mark.parametrize("label", ["{}", "{}-{}", "1000{}-1000{}"])
def test_histograms_of_any_labels(tmp_path, count, label):
    labels = [label.format(i, i + 9) for i in range(count)]
    (tmp_path / "x.html").write_text(
        html.page("x", "", [html.section("Sizes", html.bars(labels, [3] * count, axis="atoms in a molecule"))])
    )
    check(tmp_path / "x.html", tmp_path, pictures=1, texts=3)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<svg role="img" aria-label="a" width="200" height="100"><text x="190" y="50">clipped text</text></svg>', "clipped text: clipped"),
        (
            '<svg role="img" aria-label="a" width="200" height="100"><text x="9" y="50">one text</text>'
            '<text x="30" y="52">other</text></svg>',
            "other lies on one text",
        ),
        ('<svg role="img" aria-label="a" width="200" height="100"><text font-size="6" x="20" y="50">small</text></svg>', "6.0 px"),
        ('<svg width="200" height="100"></svg>', "a picture without a name"),
        ('<p style="width: 3000px; max-width: none">wide</p>', "outside of the page"),
        (f'<p style="overflow-wrap: normal; white-space: nowrap">{LONG * 4}</p>', "its content is wider"),
        ('<div class="charts"><figure>first</figure><figure style="margin-left: -300px">second</figure></div>', "first lies on second"),
    ],
)
def test_what_is_wrong_is_seen(tmp_path, body, fault):
    found = measured(html.page("x", "", [html.section("Wrong", body)]), tmp_path, (1280,))
    assert any(fault in told for told in found[0]["faults"]), found[0]["faults"]
