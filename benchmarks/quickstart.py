"""What the quickstart prints: test errors of the HOMO-LUMO gap, and how long everything takes, from molecules to the report."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT, Row, row

INPUTS = {"2d": "2D", "2d+3d": "2D+3D"}


def main(args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quickstart"
        begin = time.perf_counter()
        done = subprocess.run(
            [ROOT / "examples" / "quickstart" / "run.sh"],
            env={**os.environ, "OUT": str(out), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        minutes = (time.perf_counter() - begin) / 60
        if done.returncode:
            sys.exit(f"the quickstart ended with {done.returncode}")
        rows = [row("quickstart", "4,000 molecules of QM9", "from molecules to the report", "min", [minutes])]
        for inputs, title in INPUTS.items():
            rows += errors(out, inputs, f"4,000 molecules of QM9, gap from {title}")
        return rows


def errors(out: Path, inputs: str, case: str) -> list[Row]:
    """Mean absolute errors on the test split from these inputs: of the mean predictor and of both models."""
    results = {variant: json.loads((out / f"gap_{inputs}_{variant}" / "test.json").read_text()) for variant in ("scratch", "pretrained")}
    return [
        row("quickstart", case, "test MAE, mean predictor", "meV", [results["scratch"]["baseline"]["gap"]["mae"]]),
        row("quickstart", case, "test MAE, from scratch", "meV", [results["scratch"]["metrics"]["gap"]["mae"]]),
        row("quickstart", case, "test MAE, pretrained", "meV", [results["pretrained"]["metrics"]["gap"]["mae"]]),
    ]
