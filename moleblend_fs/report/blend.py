"""One molecule and the relations that a blend shows of it: the picture behind the paper's Eq. 8."""

import numpy as np

from moleblend_fs.data.batch import collate
from moleblend_fs.data.graph import UNREACHABLE, MolecularGraph, bond_class_features
from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from moleblend_fs.report import html

NAMES = ("shortest path", "edges on the path", "3D distance", "nothing")
BITS = (SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE)
BOND_SYMBOLS = ("\u2013", "=", "\u2261", ":", "?")
READABLE_ATOMS = 14
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


def choices(record: bytes, config: BlendConfig, *, seed: int, epoch: int) -> np.ndarray:
    """(n, n) position in `NAMES` of what each ordered pair shows: the very draw that training makes."""
    batch = collate([record])
    shown, _ = draw_blend(batch, Layout(batch.num_atoms, "cpu"), config, seed=seed, epoch=epoch)
    relations = shown.relations.numpy()
    result = np.full(relations.shape, len(BITS))
    for position, bit in enumerate(BITS):
        result[relations & bit != 0] = position
    n = int(batch.num_atoms[0])
    return result.reshape(n, n)


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


def blended_molecule(store: Store, index: int, *, seed: int, epoch: int = 1) -> str:
    """HTML: the molecule with numbered atoms beside its blended relation matrix.

    Args:
        store: where it is.
        index: of the molecule.
        seed: of the draw, fairseq's --seed.
        epoch: of the draw.
    """
    if not 0 <= index < len(store):
        raise UserError(f"--molecule {index}: {store.path} has molecules 0 to {len(store) - 1}")
    from moleblend_fs.chem.depict import molecule_from_graph, molecule_svg
    from moleblend_fs.report.charts import relation_matrix

    record = store.record(index)
    graph = decode(record)[1]
    config = BlendConfig()
    choice = choices(record, config, seed=seed, epoch=epoch)
    symbols = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in molecule_from_graph(graph).GetAtoms()]
    used = NAMES if (choice == len(BITS)).any() else NAMES[:-1]
    matrix = relation_matrix(choice, symbols, cell_texts(graph, choice), used)
    counts = ", ".join(f"{name} {np.mean(choice == position):.0%}" for position, name in enumerate(used))
    return (
        f'<div class="row"><figure>{molecule_svg(graph, width=360, height=300, numbers=True)}<figcaption><code>'
        f"{html.escape(graph.smiles)}</code><br>molecule {index}, {graph.num_atoms} atoms</figcaption></figure>"
        f"<figure>{matrix}</figure></div>"
        '<p class="soft">Each ordered pair of atoms shows the model one relation only, drawn with the probabilities '
        f"{', '.join(f'{p:g}' for p in config.blend_ratio)}; here: {counts}. In the cells: path length in bonds; the first five "
        "bonds of the path; distance in \u00c5 (before noise). The model is asked for all of them, shown or not.</p>"
    )
