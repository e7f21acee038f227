"""A molecule as it goes from the process that made it to whoever keeps or computes it."""

from dataclasses import dataclass

from moleblend_fs.data.conformer_groups import Structure
from moleblend_fs.data.graph import MolecularGraph
from moleblend_fs.data.record import encode


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMolecule:
    """A molecule ready to be stored, made in a worker process: its record and what the splits need to know."""

    record: bytes
    split: str | None
    scaffold: str | None
    key: str | None = None
    converged: int | None = None
    structure: Structure | None = None

    @classmethod
    def from_graph(cls, graph: MolecularGraph, source_row: int, *, stored: bool = True) -> "EncodedMolecule":
        """The source row becomes the molecule's id, which seeds its random draws wherever it is used; `stored`: see `encode`."""
        structure = None
        if graph.canonical_order is not None:
            structure = Structure(name=graph.smiles, order=tuple(graph.canonical_order))
        return cls(
            record=encode(graph, source_row, stored=stored),
            split=graph.split,
            scaffold=graph.scaffold,
            key=graph.key,
            converged=graph.converged,
            structure=structure,
        )
