"""Whether `moleblend explain` finds an answer that is known: a model of Crippen's logP, and what each atom adds to that.

    python -m benchmarks explain --folder runs/crippen

The shipped sample of QM9 gets its logP by RDKit; `moleblend finetune` learns it with default settings and a random split; attributions of
test molecules are compared with Crippen's contributions, hydrogens' added to their heavy atoms. What the folder has already is not trained
again. `--table` takes SMILES of another table.
"""

import argparse
import csv
import lzma
import time
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import Crippen, rdMolDescriptors
from scipy.stats import spearmanr

from benchmarks.harness import ROOT, Row, row
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.predictions.explainer import BASELINES, Explainer
from moleblend_fs.sources.molecules_to_predict import open_incoming

SAMPLE = ROOT / "examples" / "quickstart" / "qm9_sample.csv.xz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="where the table and the run are kept")
    parser.add_argument("--table", type=Path, help="a table with a column of SMILES (default: the sample of QM9)")
    parser.add_argument("--called", default="4,000 molecules of QM9", help="what the rows call it (default: %(default)s)")
    parser.add_argument("--molecules", type=int, default=100, help="test molecules that are explained (default: %(default)s)")


def main(args: argparse.Namespace) -> list[Row]:
    args.folder.mkdir(parents=True, exist_ok=True)
    table, out = args.folder / "crippen.csv", args.folder / "run"
    if not table.is_file():
        write_logp(smiles_of(args.table or SAMPLE), table)
    if not (out / "report.html").is_file():
        finetune(table, out, Settings(targets=("logP",), split="random", weights="none"), progress=Progress())
    with open(out / "predictions_test.csv", newline="") as stream:
        smiles = [line["smiles"] for line in csv.DictReader(stream)][: args.molecules]
    truth = [contributions(text) for text in smiles]
    rows = []
    for baseline in BASELINES:
        with_baseline = Explainer(out, baseline=baseline, relations=False, workers=0)
        seconds, found = [], []
        for text in smiles:
            begin = time.perf_counter()
            found.append(with_baseline(text)[0].atoms[0])
            seconds.append(time.perf_counter() - begin)
        case = f"Crippen's logP, {args.called}, {len(smiles)} test molecules, baseline {baseline}"
        pooled = float(spearmanr(np.concatenate(found), np.concatenate(truth))[0])
        within = [float(spearmanr(a, b)[0]) for a, b in zip(found, truth, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
        rows += [
            row("explain", case, "Spearman's correlation with the contributions, all atoms", "", [pooled], target="> 0.6"),
            row("explain", case, "Spearman's correlation within a molecule", "", within),
            row("explain", case, "time for the atoms of a molecule", "ms", [1000 * each for each in seconds]),
        ]
    return rows


def smiles_of(path: Path) -> list[str]:
    """The SMILES of a table that RDKit reads."""
    if path == SAMPLE:
        with lzma.open(path, "rt", newline="") as stream:
            return [line["SMILES"] for line in csv.DictReader(stream)]
    incoming = open_incoming(path)
    place = incoming.smiles_place or 0
    return [text for each in incoming.incoming() if Chem.MolFromSmiles(text := each.cells[place]) is not None]


def write_logp(smiles: list[str], path: Path) -> None:
    """A table of SMILES and Crippen's logP."""
    with open(path, "w", newline="") as stream:
        lines = [(text, f"{Crippen.MolLogP(Chem.MolFromSmiles(text)):.6f}") for text in smiles]
        csv.writer(stream, lineterminator="\n").writerows([("smiles", "logP"), *lines])


def contributions(smiles: str) -> np.ndarray:
    """(n,) Crippen's contributions of the heavy atoms, each with its hydrogens'."""
    heavy = Chem.MolFromSmiles(smiles)
    whole, count = Chem.AddHs(heavy), heavy.GetNumAtoms()
    result = np.zeros(count)
    for atom, (share, _) in zip(whole.GetAtoms(), rdMolDescriptors._CalcCrippenContribs(whole), strict=True):
        result[atom.GetIdx() if atom.GetIdx() < count else atom.GetNeighbors()[0].GetIdx()] += share
    return result
