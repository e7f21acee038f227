"""`moleblend overlap STORE STORE...`: how many molecules of each store another one has, exactly, as a skeleton, or nearly."""

import argparse
import json
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np

from moleblend_fs.chem.overlap import NEAR, MoleculeSet, Overlap, overlap
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.cli.common import check_output, text_beside
from moleblend_fs.data.store import Store
from moleblend_fs.data.stored_smiles import smiles_of_store
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "For every two stores: molecules of the one that the other one has too, with the same skeleton (first block of the InChIKey: no "
        f"stereochemistry, isotopes, charges), and with a neighbour there whose ECFP4 fingerprint has a Tanimoto similarity over {NEAR}."
    )
    parser.add_argument("stores", nargs="+", metavar="STORE", type=Path, help="two or more stores")
    parser.add_argument("--split", metavar="NAME", help="only this split of each store that has it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there, too")


def run(args: argparse.Namespace) -> int:
    if len(args.stores) < 2:
        raise UserError("give two stores or more")
    check_output(args.json, *args.stores)
    with text_beside(args.json):
        return compare_stores(args)


def compare_stores(args: argparse.Namespace) -> int:
    """Print the table, and write the counts."""
    silence_rdkit()
    stores = [Store(path) for path in args.stores]
    if args.split is not None and not any(args.split in store.splits for store in stores):
        raise UserError(f"--split {args.split}: none of the stores has this split")
    sets = [_molecules(store, args.split) for store in stores]
    rows = []
    width = max(len(f"{one} in {other}") for one in args.stores for other in args.stores)
    print(f"{'':<{width}}  {'molecules':>10} {'exact':>10} {'skeleton':>10} {f'near > {NEAR}':>10}")
    for (one, first), (other, second) in combinations(zip(args.stores, sets, strict=True), 2):
        both = overlap(first, second)
        for here, there, counts in ((one, other, both[0]), (other, one, both[1])):
            rows.append({"store": str(here), "in": str(there), **asdict(counts)})
            print(f"{f'{here} in {there}':<{width}}  {_counted(counts)}", flush=True)
    for path, found in zip(args.stores, sets, strict=True):
        if found.unreadable:
            print(f"{path}: {found.unreadable} SMILES cannot be read by this version of RDKit; they are not compared")
    if args.json is not None:
        unreadable = {str(path): found.unreadable for path, found in zip(args.stores, sets, strict=True)}
        about = {"near": NEAR, "split": args.split, "unreadable": unreadable, "overlap": rows}
        write_atomically(args.json, json.dumps(about, indent=1) + "\n")
    return 0


def _molecules(store: Store, split: str | None) -> MoleculeSet:
    """Of a split, in a store that has it, or of all."""
    indices = np.asarray(store.split(split)).tolist() if split in store.splits else None
    return MoleculeSet.of(smiles for _, smiles in smiles_of_store(store, indices))


def _counted(counts: Overlap) -> str:
    return " ".join(f"{value:>10,}" for value in (counts.molecules, counts.exact, counts.skeleton, counts.near))
