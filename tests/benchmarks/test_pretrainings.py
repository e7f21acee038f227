"""Pretrainings at equal compute, from a corpus to scores, with a few molecules and updates."""

import json
import lzma
from itertools import islice

import pytest

from benchmarks import pretrainings
from benchmarks.__main__ import main
from benchmarks.pretrainings import WAYS, equal_updates

RINGS = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "C1CCNCC1", "c1ccoc1"]
MOLECULES = [f"{start}{a}CC{b}" for i, a in enumerate(RINGS) for b in RINGS[i:] for start in ("C", "CC", "O")]


def test_equal_compute_is_by_the_committed_speeds():
    assert equal_updates(WAYS["blending"], 1500) == 1500
    assert equal_updates(WAYS["descriptors"], 1500) > 1500 > equal_updates(WAYS["3D InfoMax"], 1500)
    one, both = equal_updates(WAYS["descriptors"], 1500), equal_updates(WAYS["blending + descriptors"], 1500)
    assert 1 / both == pytest.approx(1 / one + 1 / 1500, rel=0.01)


@pytest.mark.slow
def test_from_a_corpus_to_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("EXCLUDE", str(tmp_path / "held_out.csv"))
    (tmp_path / "held_out.csv").write_text(f"smiles\n{MOLECULES[0]}\n")
    (tmp_path / "moses.csv").write_text("SMILES\n" + "".join(f"{text}\n" for text in MOLECULES[::2]))
    for name, molecules in (("tox21", MOLECULES), ("toxcast", MOLECULES[40:])):
        lines = (f"{i % 2},{i},{text}\n" for i, text in enumerate(molecules))
        (tmp_path / f"{name}.csv").write_text("NR-AR,mol_id,smiles\n" + "".join(lines))
    whole = pretrainings.tables

    def of_few_rows(args):
        """The tables, of QM9 the first 120 rows of the sample."""
        found = whole(args)
        with lzma.open(found["QM9 gap from 2D"].path, "rt") as stream:
            (tmp_path / "qm9.csv").write_text("".join(islice(stream, 121)))
        return found | {"QM9 gap from 2D": found["QM9 gap from 2D"]._replace(path=tmp_path / "qm9.csv")}

    monkeypatch.setattr(pretrainings, "tables", of_few_rows)
    given = ["--tiny", "--json", str(tmp_path / "rows.json"), "pretrainings", "--data", str(tmp_path), "--folder", str(tmp_path / "runs")]
    given += ["--moses", str(tmp_path / "moses.csv"), "--moses-sample", "20", "--updates", "4", "--arch", "tiny", "--seeds", "1"]
    given += ["--only", "blending + descriptors"]
    assert main(given) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["metric"] for row in rows} == {
        "qm9, frozen probe, r2",
        "tox21, frozen probe, roc_auc",
        "Tox21, finetuned, roc_auc",
        "QM9 gap from 2D, finetuned, rmse",
    }
