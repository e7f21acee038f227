"""One molecule and the relation that each pair of its atoms shows the model: the picture behind the paper's Eq. 8."""

from collections.abc import Sequence

import numpy as np

from moleblend_fs.data.batch import collate
from moleblend_fs.data.graph import UNREACHABLE, MolecularGraph, bond_class_features
from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.objective import Objective
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from moleblend_fs.report import html
from moleblend_fs.wording import counted

NAMES = ("shortest path", "edges on the path", "3D distance", "nothing")
BITS = (SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE)
BOND_SYMBOLS = ("\u2013", "=", "\u2261", ":", "?")
READABLE_ATOMS = 14
LARGEST_MATRIX = 100
TRIES = 200


def choose_molecule(store: Store, seed: int) -> int:
    """A molecule with coordinates among the larger ones that still make a readable matrix; the first one at worst."""
    atoms = np.asarray(store.num_atoms)
    small = atoms[atoms <= READABLE_ATOMS]
    candidates = np.flatnonzero(atoms == small.max()) if len(small) else np.arange(len(store))
    generator = np.random.Generator(np.random.PCG64(seed))
    for index in generator.permutation(candidates)[:TRIES].tolist():
        if decode(store.record(index))[1].coordinates is not None:
            return index
    return int(candidates[0])


def choices(record: bytes, objective: Objective, *, seed: int, epoch: int) -> tuple[np.ndarray, str]:
    """(n, n) position in `NAMES` of what each ordered pair shows, the very draw that training makes; and how it was drawn."""
    batch = collate([record])
    pictured = objective.pictured(batch, Layout(batch.num_atoms, "cpu"), seed=seed, epoch=epoch)
    assert pictured is not None, f"{objective.name} has nothing to picture"
    relations = pictured.relations.numpy()
    result = np.full(relations.shape, len(BITS))
    for position, bit in enumerate(BITS):
        result[relations & bit != 0] = position
    n = int(batch.num_atoms[0])
    return result.reshape(n, n), pictured.told


def cell_texts(graph: MolecularGraph, choice: np.ndarray) -> list[list[str]]:
    """What each pair is shown, in short: path length in bonds, the bonds along it, or the distance in Angstrom."""
    kinds = bond_class_features()[:, 0]
    coordinates = None if graph.coordinates is None else graph.coordinates[0].astype(np.float64)

    def text(i: int, j: int) -> str:
        if choice[i, j] == 0:
            return "\u221e" if graph.spd[i, j] == UNREACHABLE else str(graph.spd[i, j])
        if choice[i, j] == 1:
            return "".join(BOND_SYMBOLS[kinds[c - 1]] for c in graph.path_bonds[i, j].tolist() if c)
        if choice[i, j] == 2 and coordinates is not None:
            return f"{np.linalg.norm(coordinates[i] - coordinates[j]):.1f}"
        return ""

    n = graph.num_atoms
    return [[text(i, j) for j in range(n)] for i in range(n)]


COLOURS = ("#BFD9EC", "#F7D9A8", "#BFE5D3", "#E3E6E9")


def relation_matrix(choice: np.ndarray, atoms: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table of which relation each ordered pair shows: (n, n) positions in `NAMES`, in colour, and in words where the mouse rests."""
    head = "".join(f'<th scope="col">{html.escape(atom)}</th>' for atom in atoms)
    rows = []
    for i, atom in enumerate(atoms):
        row = "".join(
            f'<td style="background:{COLOURS[kind]}" title="{html.escape(f"{atom} to {to}: {NAMES[kind]}")}">'
            f"{html.escape(cells[i][j])}</td>"
            for j, (kind, to) in enumerate(zip(choice[i].tolist(), atoms, strict=True))
        )
        rows.append(f'<tr><th scope="row">{html.escape(atom)}</th>{row}</tr>')
    table = f'<table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return html.scrolled(table, "relation that each pair of atoms shows: from the row's atom to the column's")


def blended_molecule(store: Store, index: int, objective: Objective, *, seed: int, epoch: int = 1) -> str:
    """HTML: the molecule with numbered atoms beside its blended relation matrix.

    Args:
        store: where it is.
        index: of the molecule.
        objective: of pretraining.
        seed: of the draw, fairseq's --seed.
        epoch: of the draw.
    """
    if not 0 <= index < len(store):
        raise UserError(f"--molecule {index}: {store.path} has molecules 0 to {len(store) - 1}")
    from moleblend_fs.chem.depict import molecule_from_graph, molecule_svg

    record = store.record(index)
    graph = decode(record)[1]
    if graph.num_atoms > LARGEST_MATRIX:
        raise UserError(
            f"molecule {index} has {graph.num_atoms} atoms; a matrix of more than {LARGEST_MATRIX} is not drawn: choose another"
        )
    choice, told = choices(record, objective, seed=seed, epoch=epoch)
    symbols = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in molecule_from_graph(graph).GetAtoms()]
    used = NAMES if (choice == len(BITS)).any() else NAMES[:-1]
    counts = ", ".join(f"{name} {np.mean(choice == position):.0%}" for position, name in enumerate(used))
    picture = html.figure(
        molecule_svg(graph, width=360, height=300, numbers=True),
        caption=f"<code>{html.escape(graph.smiles)}</code><br>molecule {index}, {counted(graph.num_atoms, 'atom')}",
    )
    matrix = html.legend(zip(used, COLOURS, strict=False)) + relation_matrix(choice, symbols, cell_texts(graph, choice))
    return f'<div class="row">{picture}<div>{matrix}</div></div>' + html.note(
        f"Each ordered pair of atoms, from the row's to the column's, shows the model one relation only, "
        f"{told}; here: {counts}. In the cells: path length in bonds; the first five bonds of the path; distance in "
        "\u00c5 (before noise). "
        "The model is asked for all of them, shown or not."
    )
