"""What becomes of a row: its molecule, as bytes of a record, or a failure with its reason. Parsing may raise whatever it likes."""

from typing import Any

from rdkit import Chem

from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import Failure
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.labels import check_values

Results = list[tuple[int, EncodedMolecule | Failure]]


def encode_row(source: Source, row: int, raw: Any) -> Results:
    """A row's molecule or failure, whatever parsing it raises. A molecule with a note gives a line in failures.csv as well."""
    try:
        graph = source.parse(raw)
        if isinstance(graph, EncodedMolecule):  # of a sidecar, which has no graph
            return [(row, graph)]
        if not isinstance(graph, Failure) and (problem := check_values(graph.labels, source.labels)) is not None:
            graph = Failure(input=graph.smiles, reason=problem)
        if not isinstance(graph, Failure):
            molecule = EncodedMolecule.from_graph(graph, row, stored=source.stored)
            note = [] if graph.note is None else [(row, _printable(Failure(input=graph.smiles, reason=graph.note)))]
            return [(row, molecule), *note]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a library's or ours: no row may end the run
        graph = Failure(input=source.shown(raw), reason=_reason(error))
    return [(row, _printable(graph))]


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, UserError):
        return said
    if isinstance(error, Chem.MolSanitizeException):  # e.g. a scaffold that RDKit cannot kekulise
        return f"RDKit: {said}"
    if isinstance(error, MemoryError):
        return "not enough memory for this row"
    return f"{type(error).__name__}: {said}"


def _printable(failure: Failure) -> Failure:
    """Without halves of surrogate pairs, which no file can hold."""
    text = (part.encode("utf-8", "replace").decode() for part in (failure.input, failure.reason))
    return Failure(input=next(text), reason=next(text), left_out=failure.left_out)
