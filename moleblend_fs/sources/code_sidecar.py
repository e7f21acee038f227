"""The sidecar of codes: one for each atom, by a model, which runs in this process."""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.sidecar import CODES, LISTS
from moleblend_fs.data.store import Store
from moleblend_fs.sources.row_results import Results
from moleblend_fs.sources.sidecar_kinds import Counting


class Codes(Counting):
    """Codes of each molecule's atoms, and how many atoms have which; `columns` are the codes' names.

    Args:
        names: of the codes.
        model_sha256: what the model is known by.
        computed: (store, begin, end) -> (index, its atoms' codes) of these molecules, chunk after chunk, in their order.
    """

    name = CODES
    kind = LISTS
    names: ClassVar[tuple[str, ...]] = (CODES,)

    def __init__(
        self, names: tuple[str, ...], model_sha256: str, computed: Callable[[Store, int, int], Iterator[list[tuple[int, np.ndarray]]]]
    ):
        self.columns, self.model_sha256, self.computed = names, model_sha256, computed

    def results(self, store: Store, begin: int, end: int, workers: int) -> Generator[Results, None, None]:
        """See `Kind`; no worker has a part in it."""
        for part in self.computed(store, begin, end):
            yield [(index, self._kept(codes)) for index, codes in part]

    def _kept(self, codes: np.ndarray) -> EncodedMolecule:
        return EncodedMolecule(record=json.dumps(codes.tolist()).encode(), split=None, scaffold=None)

    def found(self, atom_features: np.ndarray, bonds: np.ndarray, bond_classes: np.ndarray) -> Any:
        raise NotImplementedError  # no molecule is computed on its own

    def counted(self, found: Any) -> Mapping[str, Sequence[tuple[str, int, int]]]:
        return {CODES: [(self.columns[code], code, times) for code, times in Counter(found).items()]}

    def line(self, found: Sequence[Any]) -> dict[str, Any]:
        return {"lists": found}
