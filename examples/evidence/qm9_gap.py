"""QM9's HOMO-LUMO gap as a data set of few training molecules: the same molecules as SMILES and as structures."""

from pathlib import Path

import numpy as np
from cleaning import Cleaning, Molecule, by_hash, clean, write_table
from methods import DATA_SETS
from plan import Cell, Plan
from rdkit import Chem

from moleblend_fs.data.graph import Failure
from moleblend_fs.files import whole_file
from moleblend_fs.finetune.folds import Parts
from moleblend_fs.sources.qm9 import open_qm9
from moleblend_fs.sources.qm9_targets import TARGETS

SOURCE, TARGET = "qm9pack", "gap"
VALID, TEST = 1000, 2000
"""Molecules that select and test, the same in all splits and sizes: the first ones by a hash of their SMILES."""
DRAWN_FROM = 2
"""Times the training molecules: of so many they are drawn."""


def prepare_qm9(plan: Plan, name: str, out: Path) -> tuple[Cleaning, dict[tuple[str, str], Parts]]:
    """Write the table and the SD file; (what became of the rows, the splits).

    Rows are taken in an order that a hash decides, so that what tests does not depend on how many train; structure and label of a
    molecule are those of its first row.
    """
    train = DATA_SETS[name].qm9
    source = open_qm9(SOURCE)
    smiles = [raw.smiles for _, raw in source.rows(0)]
    order = by_hash(smiles)[: VALID + TEST + DRAWN_FROM * train]
    wanted = set(order)
    raws = {row: raw for row, raw in source.rows(0) if row in wanted}
    place = [target.name for target in TARGETS].index(TARGET)
    rows, structures, invalid = [(text, [np.nan]) for text in smiles], {}, []
    for row in order:
        graph = source.parse(raws[row])
        if isinstance(graph, Failure):
            invalid.append((row, graph.reason))
            continue
        rows[row] = (smiles[row], [float(graph.labels[place])])
        structures[row] = source.structure(raws[row])
    found, kept, _ = clean(rows, "regression", [row for row in order if row in structures])
    found.sampled -= len(invalid)
    found.invalid += invalid
    cell = Cell(protocol="A", data=name, version="cleaned", split="", seed=0, method="")
    write_table(cell.table(out), [TARGET], kept)
    write_structures(cell.structures(out), kept, structures)
    return found, fixed_splits(plan, len(kept), train)


def write_structures(path: Path, molecules: list[Molecule], structures: dict[int, tuple[Chem.Mol, np.ndarray]]) -> None:
    """An SD file of the table's molecules, in its order, hydrogens explicit."""
    with whole_file(path) as stream:
        for each in molecules:
            mol, xyz = structures[each.row]
            mol = Chem.Mol(mol)
            conformer = Chem.Conformer(mol.GetNumAtoms())
            conformer.SetPositions(np.asarray(xyz, dtype=np.float64))
            conformer.Set3D(True)
            mol.RemoveAllConformers()
            mol.AddConformer(conformer)
            stream.write(f"{Chem.MolToMolBlock(mol)}>  <{TARGET}>\n{each.values[0]:.10g}\n\n$$$$\n")


def fixed_splits(plan: Plan, molecules: int, train: int) -> dict[tuple[str, str], Parts]:
    """(protocol, split) -> rows. A: the first of what is left for training. B: drawn from it."""
    valid, test, pool = np.arange(VALID), np.arange(VALID, VALID + TEST), np.arange(VALID + TEST, molecules)
    splits: dict[tuple[str, str], Parts] = {("A", "fixed"): {"train": pool[:train], "valid": valid, "test": test}}
    for draw in range(plan.scale.repeats):
        chosen = np.random.Generator(np.random.PCG64(draw)).permutation(pool)[:train]
        splits["B", f"draw{draw}"] = {"train": np.sort(chosen), "valid": valid, "test": test}
    return splits
