"""Draws examples/quickstart/qm9_sample.csv.xz from the installed qm9pack package (pip install qm9pack).

    python scripts/make_qm9_sample.py [--molecules 4000] [--seed 0] [--output FILE]

The draw depends on the set of molecule indices and the seed only, so it gives the same bytes everywhere.
"""

import argparse
import ast
import csv
import importlib.util
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

COLUMNS = (
    "Index",
    "SMILES",
    "Elements",
    "XYZ_Ang",
    "Dipole_debye",
    "Polarizability_bohr3",
    "HOMO_au",
    "LUMO_au",
    "HOMO_LUMO_gap_au",
    "R2_bohr2",
    "ZPVE_au",
    "InternalEnergy_0K_au",
    "InternalEnergy_298K_au",
    "Enthalphy_298K_au",
    "GibbsFreeEnergy_298K_au",
    "Heatcapacity_Cv_cal_mol_K",
)
PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
DECIMALS = 4
"""Digits after the point of the coordinates in Angstrom; at most 0.00005 Angstrom are lost."""


def qm9pack_data() -> Path:
    """Folder of qm9pack's CSV files; the package itself is not imported (it needs pkg_resources)."""
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or spec.origin is None:
        sys.exit("qm9pack is not installed: pip install -c constraints.txt qm9pack")
    return Path(spec.origin).parent / "data"


def rows(folder: Path) -> Iterator[dict[str, str]]:
    """Every molecule of QM9, as text."""
    for part in PARTS:
        with open(folder / part, newline="") as stream:
            yield from csv.DictReader(stream)


def draw(indices: list[int], molecules: int, seed: int) -> set[int]:
    """A uniform sample without replacement, the same for any order of `indices`."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return set(generator.choice(np.sort(np.array(indices)), size=molecules, replace=False).tolist())


def compact(row: dict[str, str]) -> list[str]:
    """The columns kept of one row, with rounded coordinates and no blanks."""
    kept = {name: row[name] for name in COLUMNS}
    coordinates = np.array(ast.literal_eval(row["XYZ_Ang"]))
    rounded = [",".join(f"{x:.{DECIMALS}f}" for x in atom) for atom in coordinates]
    kept["XYZ_Ang"] = "[[" + "],[".join(rounded) + "]]"
    kept["Elements"] = row["Elements"].replace(" ", "")
    return list(kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    default = Path(__file__).parents[1] / "examples" / "quickstart" / "qm9_sample.csv.xz"
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    csv.field_size_limit(1 << 24)
    folder = qm9pack_data()
    chosen = draw([int(row["Index"]) for row in rows(folder)], arguments.molecules, arguments.seed)
    with lzma.open(arguments.output, "wt", preset=9 | lzma.PRESET_EXTREME, newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(compact(row) for row in rows(folder) if int(row["Index"]) in chosen)
    print(f"{arguments.output}: {len(chosen)} molecules, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
