"""The weights in the box, made by the script from a corpus of a few molecules: twice the same bits, nothing of the excluded sets."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.folds import smiles_of

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "pretrain_box"))

import curve  # noqa: E402

RINGS = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "C1CCNCC1", "c1ccc2ccccc2c1", "c1ccoc1", "C1CCOC1"]
MOLECULES = [f"{start}{a}CC{b}" for i, a in enumerate(RINGS) for b in RINGS[i:] for start in ("C", "CC", "O")]
EXCLUDED = MOLECULES[:3]


def made(data: Path, out: Path, stores: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "STORES": str(stores),
        "DATA": str(data),
        "MOSES": str(data / "moses.csv"),
        "EXCLUDE": str(data / "held_out.csv"),
        "OUT": str(out),
    }
    settings |= {"SCALE": "tiny", "CORPUS": "tox21 moses", "WORKERS": "1", "OMP_NUM_THREADS": "1", **changed}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = ROOT / "examples" / "pretrain_box" / "run.sh"
    return subprocess.run([script], env=os.environ | settings | {"PATH": path}, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_the_weights_are_made_twice_with_the_same_bits(tmp_path):
    data = tmp_path / "the data"
    data.mkdir()
    (data / "moses.csv").write_text("SMILES\n" + "".join(f"{text}\n" for text in MOLECULES[::2]))
    (data / "tox21.csv").write_text("NR-AR,mol_id,smiles\n" + "".join(f"{i % 2},{i},{text}\n" for i, text in enumerate(MOLECULES)))
    (data / "held_out.csv").write_text("smiles\n" + "".join(f"{text}\n" for text in EXCLUDED))
    folders = [tmp_path / "one", tmp_path / "two"]
    alone = made(data, folders[0], folders[0] / "data", UPDATES="0")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert [path.name for path in folders[0].iterdir()] == ["data"], "the corpus alone"
    for out in folders:
        done = made(data, out, folders[0] / "data")
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((out / "weights" / "small" / "model.safetensors").read_bytes() for out in folders)
    assert first == second
    card = load(folders[0] / "weights" / "small").card
    assert [store.source for store in card.stores] == ["moleculenet", "moses"]
    assert all(store.options["exclude"]["sets"] == ["held_out.csv"] for store in card.stores)
    assert (card.updates, card.objectives[0]["name"], card.dropped) == (4, "descriptors", ("descriptors",))
    assert "checkpoint_last.pt" in card.settings["start"]
    for name in ("tox21", "moses"):
        learned = set(smiles_of(Store(folders[0] / "data" / name)))
        assert len(learned) > 30
        assert not learned & set(EXCLUDED)
    rows = list(csv.DictReader((folders[0] / "probes.csv").open()))
    assert {row["store"] for row in rows} == {"qm9", "tox21"}
    assert any(row["checkpoint"] == "cooldown/checkpoint_last.pt" for row in rows)
    before = (folders[0] / "probes.csv").read_bytes()
    again = made(data, folders[0], folders[0] / "data")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") == 2
    assert (folders[0] / "probes.csv").read_bytes() == before
    points = curve.points_of(folders[0])
    assert ("cooldown", 10, 80) in {point[:3] for point in points if point.quantity == curve.HELD_OUT}
    probed = [point for point in points if "loss" not in point.quantity]
    told = {(row["store"], row["checkpoint"].split("/")[0], int(row["updates"])) for row in rows}
    assert {(point.stage, point.updates) for point in probed} == {
        (stage, updates + 6 * (stage == "cooldown")) for _, stage, updates in told
    }
    assert {point.quantity.partition(" ")[0].rstrip(",").lower() for point in probed} == {store for store, _, _ in told}
    (folders[1] / "pretrain" / "train.log").write_text("")
    with pytest.raises(UserError, match="no loss in it"):
        curve.points_of(folders[1])


def test_the_pictures_in_docs_are_those_of_their_table(tmp_path):
    kept = ROOT / "docs" / "figures" / "weights"
    (tmp_path / "curve.csv").write_bytes((kept / "curve.csv").read_bytes())
    curve.draw(tmp_path)
    for name in ("loss.svg", "probes.svg"):
        assert (tmp_path / name).read_bytes() == (kept / name).read_bytes()
