"""The report of anything that calls itself results and logs: a page, or a message; never a crash, and always a page that can be parsed."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from moleblend_fs.cli.main import main

NAMES = ["gap", "", " ", "a<b>&\"'", "$x_^$", "\ud800", "n" * 300, "\u03b1\u200f", "../../x", "nan", "mean predictor", "{odd}", "a\nb"]
SMILES = ["CC#N", "C[C@H](O)F", "", "c1cc1", "no <molecule>", "C" * 3000, None, 7, "[Xx]", "C\0C", "\ud800", "[Na+].[Cl-]", "*"]
NUMBERS = [0, 1, 0.5, -1, 1e308, -1e308, 1e-320, 1e99, 7, 3.2e6, -40685.1, float("nan"), float("inf"), None, "x", True, [], 10**400]
METRICS = ["mae", "rmse", "r2", "roc_auc", "pr_auc", "f1", "log_loss", "mcc", "balanced_accuracy", "something else"]
COMMON = [0.0, 1.0, 0.25]
"""Numbers of results that are classes."""
CASES = 30


def picked(rng, values):
    return values[int(rng.integers(len(values)))]


def odd_result(rng) -> dict:
    """A result file whose parts are odd, most of them in ways that are let in."""
    names = list(dict.fromkeys(picked(rng, NAMES) for _ in range(int(rng.integers(1, 7)))))
    numbers = COMMON if rng.random() < 0.4 else NUMBERS if rng.random() < 0.5 else NUMBERS[:14]
    metrics = {name: {metric: picked(rng, [*NUMBERS[:5], None]) for metric in METRICS if rng.random() < 0.6} for name in names}
    rows = [
        {"id": picked(rng, [i, "x", None]), "smiles": picked(rng, SMILES)}
        | {part: [picked(rng, numbers) for _ in names] for part in ("target", "prediction")}
        for i in range(int(rng.integers(0, 12)))
    ]
    result = {"store": picked(rng, ["gone", "", "\0", "a" * 5000]), "split": picked(rng, NAMES), "metrics": metrics, "predictions": rows}
    extra = {"units": dict.fromkeys(names, picked(rng, NAMES)), "baseline": metrics, "inputs": "2d", "split_sha256": picked(rng, NAMES)}
    extra |= {"checkpoint": picked(rng, NAMES), "updates": picked(rng, [3, None]), "kind": "classification"}
    return result | {name: value for name, value in extra.items() if rng.random() < 0.6}


def odd_log(rng) -> str:
    """Lines as of several formats, with odd names and numbers, and configurations that are cut or wrong."""
    lines = []
    for step in range(int(rng.integers(0, 12))):
        name, value = picked(rng, ["loss", "spd_loss", "spd_information", "mae", *NAMES]), picked(rng, NUMBERS)
        at = picked(rng, [step, step, step, -1, 1e300, None, "x"])
        entry = {name: str(value), "num_updates": at}
        lines.append(picked(rng, [json.dumps(entry), json.dumps({f"valid_{n}": v for n, v in entry.items()})]))
        lines.append(f"epoch 001:   {step} / 53 {name}={value}, num_updates={at}")
        lines.append(f"epoch 001 | valid on 'valid' subset | {name} {value} | num_updates {at}")
    ratio = picked(rng, ["[0.2, 0.2, 0.6]", "[1, 2, 3]", "[]", "None", "'x'", "[nan, 1, 0]", "[0.5, 0.5]"])
    task = (
        f"'task': {{'_name': 'moleblend', 'objective': blend_then_predict, 'blend_ratio': {ratio}, 'mask_ratio': {picked(rng, NUMBERS)!r}}}"
    )
    whole = f"{{'_name': None, 'common': {{'seed': {picked(rng, NUMBERS)!r}}}, {task}}}"
    lines.insert(0, picked(rng, ["", whole, whole[: int(rng.integers(len(whole)))]]))
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_there_is_a_page_or_a_message(qm9_store, tmp_path, capsys):
    pages = 0
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        run = tmp_path / str(seed) / "run"
        run.mkdir(parents=True)
        (run / "test.json").write_text(json.dumps(odd_result(rng)))
        (run / "train.log").write_bytes(odd_log(rng).encode(errors="surrogatepass"))
        page = run.parent / "x.html"
        store = ["--store", str(qm9_store.path)] if rng.random() < 0.3 else []
        code = main(["report", str(run.parent), "--output", str(page), *store])
        assert code in (0, 2), seed
        assert page.exists() == (code == 0)
        if code == 0:
            pages += 1
            text = page.read_text()
            for picture in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
                ElementTree.fromstring(picture)
            assert not re.search(r"<(script|link|img|iframe)\b", text)
    print(f"\n{CASES} folders of odd results and logs: {pages} pages")
    assert pages > CASES // 2
    assert "Traceback" not in capsys.readouterr().err
