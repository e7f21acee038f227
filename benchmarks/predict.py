"""From SMILES to predictions in Python, after loading: 1, 100 and 10,000 molecules with the small model of inputs 2D, wall-clock time.

Molecules are PCQM4Mv2-sized and drug-sized ones that are shipped or built here, each many times: nothing is remembered between them.
"""

import argparse
import itertools
import tempfile
import time
import warnings
from pathlib import Path

import torch

from benchmarks.harness import Row, row, timed
from moleblend_fs import Predictor
from moleblend_fs.checkpoint.read import Checkpoint, FinetunedFor
from moleblend_fs.checkpoint.write import save
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend

SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "CN1C2CCC1CC(C2)OC(=O)C(CO)c1ccccc1",
    "O=C(O)Cc1ccccc1Nc1c(Cl)cccc1Cl",
    "COc1ccc2cc(ccc2c1)C(C)C(=O)O",
    "CCO",
)
"""Aspirin, caffeine, ibuprofen, paracetamol, atropine, diclofenac, naproxen, ethanol: 3 to 21 heavy atoms, 15 on average."""
REPEATS = {1: 50, 100: 10, 10_000: 1}
"""Molecules -> how often they are timed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, default=None, help="processes that make molecules (default: none up to 256 molecules, then one a core)"
    )


def main(args: argparse.Namespace) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model does not say what it was trained on: it was not
        with Predictor(untrained(Path(folder) / "model"), device=args.device, workers=args.workers) as predictor:
            for count, repeats in REPEATS.items():
                smiles = list(itertools.islice(itertools.cycle(SMILES), count))
                seconds = timed(lambda smiles=smiles: predictor.predict(smiles), repeats, warm_up=int(count < 1000))  # type: ignore[misc]
                case = f"{count} molecules from SMILES, small, inputs 2d, {torch.get_num_threads()} torch threads"
                if count == 1:
                    latency = [1e3 * each for each in seconds]
                    rows.append(row("predict", case, "time to predictions", "ms", latency, target="< 50", device=args.device))
                    busy = timed(lambda smiles=smiles: predictor.predict(smiles), repeats, clock=time.process_time)  # type: ignore[misc]
                    rows.append(row("predict", case, "CPU time", "ms", [1e3 * each for each in busy], device=args.device))
                rates = [count / each for each in seconds]
                rows.append(row("predict", case, "throughput", "molecules/s", rates, device=args.device))
    return rows


def untrained(folder: Path, size: str = "small") -> Path:
    """A model of a size that was never trained; it takes as long."""
    torch.manual_seed(0)
    config = ModelConfig(**PRESETS[size], heads=("property",), tasks=1)  # type: ignore[arg-type]
    about = FinetunedFor(inputs="2d", targets=("y",), kinds=("regression",), units=("",), mean=(0.0,), std=(1.0,))
    save(Checkpoint(config=config, weights=MoleBlend(config).state_dict(), finetuned=about), folder)
    return folder
