"""Rows through `moleblend predict`, killed and begun again: what the benchmark asks, measures and finds."""

import argparse
import csv

import pytest
from rdkit import Chem

from benchmarks import stream


def test_molecules_are_different_and_can_be_read():
    smiles = [stream.smiles_of(number) for number in (*range(0, 2_000_000, 4001), *range(300))]
    assert {Chem.MolFromSmiles(each) is not None for each in smiles if each != stream.BAD} == {True}
    assert len({each for each in smiles if each != stream.BAD}) == len([each for each in smiles if each != stream.BAD]) - 1  # 0 is twice
    assert stream.smiles_of(stream.UNREADABLE - 1) == stream.BAD


@pytest.mark.slow
@pytest.mark.cold  # it is asked what memory it takes
def test_what_is_lost_repeated_or_changed_is_found(tmp_path):
    """The whole of it, small: killed once; then the output is spoiled in the ways that a wrong resumption would."""
    args = argparse.Namespace(folder=tmp_path, rows=0, every=0, kills=0, workers=1, tiny=True)
    rows = {each.metric: each for each in stream.main(args)}
    assert "killed 1 times" in next(iter(rows.values())).case
    with open(tmp_path / "memory.csv", newline="") as file:
        looks = list(csv.DictReader(file))
    assert looks[0]["start"] == "0"
    assert 0 < int(looks[0]["rows"]) < 15000, "it was killed before its end, after a look"
    assert all(50 < float(line["alone"]) < float(line["together"]) for line in looks)
    assert rows["rows lost, repeated or in another order"].p50 == 0
    out = tmp_path / "15000.predictions.csv"
    lines = out.read_text().splitlines(keepends=True)
    assert "going on after row" in (tmp_path / "15000.predictions.log").read_text()
    for spoiled in (
        lines[:4000] + lines[4001:],
        lines[:4000] + lines[3999:],
        [*lines[:4000], lines[4001], lines[4000], *lines[4002:]],
        [line.replace(",ok", ",no prediction") if i == 4000 else line for i, line in enumerate(lines)],
        [line.replace(".", ".9", 1) for line in lines],
    ):
        out.write_text("".join(spoiled))
        with pytest.raises((RuntimeError, ValueError)):
            stream.check(tmp_path / "15000.csv", out, tmp_path / "model.onnx")
