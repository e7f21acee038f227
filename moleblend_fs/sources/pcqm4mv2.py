"""PCQM4Mv2 in the layout of its OGB release: 3.7 million molecules, HOMO-LUMO gaps, DFT structures of the training split."""

import argparse
import hashlib
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.chem.parse import parse_molblock, parse_smiles
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.delimited import Table, column_indices, full_rows
from moleblend_fs.sources.labels import read_labels
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.sdf_records import sdf_records
from moleblend_fs.wording import counted

SDF = "pcqm4m-v2-train.sdf"
SDF_ARCHIVE = "http://ogb-data.stanford.edu/data/lsc/pcqm4m-v2-train.sdf.tar.gz"
SDF_ARCHIVE_MD5 = "fd72bce606e7ddf36c2a832badeec6ab"
SPLITS = ("train", "valid", "test-dev", "test-challenge")


class Row(NamedTuple):
    """A row of data.csv.gz with its split and, for a training molecule, its record of the SD file."""

    smiles: str
    gap: str
    split: str
    record: str | None


class PCQM4Mv2(Source):
    """Training molecules come from the SD file, atoms in its order and with its structure; all others from SMILES.

    Args:
        path: the folder pcqm4m-v2, or the one it lies in. The SD file may lie in either, or in raw/.
        structures: whether to read the SD file at all; without it the training molecules are 2D as well.
    """

    name = "pcqm4mv2"
    labels = (LabelSpec(name="homolumogap", unit="eV", kind="regression"),)
    splitter = Splitter(kind="prescribed")

    def __init__(self, path: Path, *, structures: bool = True):
        folder = next((f for f in (path, path / "pcqm4m-v2") if (f / "raw" / "data.csv.gz").is_file()), None)
        if folder is None:
            raise UserError(
                f"{path}: no raw/data.csv.gz here or in pcqm4m-v2/; give the folder of the OGB release, or fetch it with --download"
            )
        self._table, self._split_file = folder / "raw" / "data.csv.gz", folder / "split_dict.pt"
        self._sdf: Path | None = None
        if structures:
            places = (path, folder, folder.parent, folder / "raw")
            self._sdf = next((place / SDF for place in places if (place / SDF).is_file()), None)
            if self._sdf is None:
                raise UserError(
                    f"{path}: no {SDF} here; fetch it with --download (or from {SDF_ARCHIVE}), or go without it: --no-structures"
                )
        wanted = ["smiles", "homolumogap"]
        self._read = Table(self._table, [[name] for name in wanted])
        self._columns = column_indices(self._table, self._read.header, wanted)
        self._blank = 0
        self._rows = sum(map(len, read_split_dict(self._split_file).values()))

    def files(self) -> list[Path]:
        return [self._table, self._split_file, *([self._sdf] if self._sdf else [])]

    def options(self) -> dict[str, Any]:
        return {"structures": self._sdf is not None}

    def num_rows(self) -> int | None:
        return self._rows

    def rows(self, start: int) -> Iterator[tuple[int, Row]]:
        split_of = self._split_of_rows()
        records = iter(()) if self._sdf is None else sdf_records(self._sdf, int((split_of[:start] == 0).sum()))
        lines = self._lines()
        smiles, gap = self._columns
        row = start - 1
        for row, line in islice(enumerate(lines), start, None):
            if row >= len(split_of):
                raise UserError(f"{self._table}: row {row} is damaged, or not in {self._split_file.name}; fetch the release again")
            record = None
            if self._sdf is not None and split_of[row] == 0:
                record = next(records, None)
                if record is None:
                    raise UserError(f"{self._sdf}: ends before training molecule {row}; the file is cut short, fetch it again")
            yield row, Row(line[smiles], line[gap], SPLITS[split_of[row]], record)
        if row + 1 != len(split_of):
            raise UserError(
                f"{self._table}: ends after {counted(row + 1, 'row')} of {len(split_of)}; the file is cut short, fetch it again"
            )

    def _lines(self) -> Iterator[list[str]]:
        self._blank = 0
        for line in full_rows(self._read):
            if line is None:
                self._blank += 1
            else:
                yield line

    def left_out(self) -> dict[str, int]:
        return {"blank": self._blank}

    def _split_of_rows(self) -> np.ndarray:
        """(N,) int8, index into SPLITS of every row."""
        splits = read_split_dict(self._split_file)
        result = np.full(self._rows, -1, dtype=np.int8)
        for index, name in enumerate(SPLITS):
            rows = splits[name]
            if len(rows) and (rows.min() < 0 or rows.max() >= self._rows):
                raise UserError(f"{self._split_file}: split {name} has a row outside 0 to {self._rows - 1}")
            result[rows] = index
        # Record i of the SD file belongs to training row i: reading both side by side needs ascending rows.
        if (result < 0).any() or (np.diff(splits["train"]) < 0).any():
            raise UserError(f"{self._split_file}: splits overlap, or training rows are not in ascending order")
        return result

    def parse(self, raw: Row) -> MolecularGraph | Failure:
        labels = read_labels([raw.gap], self.labels)
        if isinstance(labels, str):
            return Failure(input=raw.smiles, reason=labels)
        mol = parse_smiles(raw.smiles)
        if isinstance(mol, Failure):
            return mol
        if raw.record is None:
            return graph_from_mol(mol, smiles=raw.smiles, labels=labels, split=raw.split)
        structure = parse_molblock(raw.record, shown=raw.smiles)
        if isinstance(structure, Failure):
            return structure
        formulas = CalcMolFormula(mol), CalcMolFormula(structure)
        if formulas[0] != formulas[1]:
            return Failure(input=raw.smiles, reason=f"the SMILES is {formulas[0]}, its record of the SD file {formulas[1]}")
        return graph_from_mol(
            structure, smiles=raw.smiles, labels=labels, coordinates=structure.GetConformer().GetPositions()[None], split=raw.split
        )


def read_split_dict(path: Path) -> dict[str, np.ndarray]:
    """The four splits of `split_dict.pt` as (n,) int64, admitting tensors and NumPy arrays only."""
    from moleblend_fs.data.untrusted_torch import read_torch  # here, so that the workers need not load torch

    if not path.is_file():
        raise UserError(f"{path}: no such file; fetch the release again with --download")
    try:
        raw = read_torch(path)
        splits = {name: np.asarray(raw[name]) for name in SPLITS}
        if strange := [name for name, rows in splits.items() if rows.ndim != 1 or rows.dtype.kind not in "iu"]:
            raise ValueError(f"split {strange[0]} is no list of rows")
        return {name: rows.astype(np.int64) for name, rows in splits.items()}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: not OGB's split file, or damaged ({error}); fetch the release again") from error


def download(root: Path) -> None:
    """Fetch the release into `root` with ogb's downloader, and its SD file; what is there already stays.

    Raises:
        UserError: ogb is not installed, the download fails, or the SD archive has another checksum.
    """
    try:
        from ogb.lsc import PCQM4Mv2Dataset
        from ogb.utils.url import download_url
    except ModuleNotFoundError as error:
        raise UserError(f"--download needs the package {error.name}; pip install 'moleblend-fs[chem]'") from error
    root.mkdir(parents=True, exist_ok=True)
    if not any((f / "raw" / "data.csv.gz").is_file() for f in (root, root / "pcqm4m-v2")):
        try:
            PCQM4Mv2Dataset(root=str(root), only_smiles=True)
        except SystemExit as error:  # ogb asks before large downloads
            raise UserError("the download was declined") from error
        except (OSError, RuntimeError) as error:
            raise UserError(f"the download of PCQM4Mv2 into {root} failed ({error}); try again, or unpack pcqm4m-v2.zip there") from error
    if any((place / SDF).is_file() for place in (root, root / "pcqm4m-v2", root / "raw", root / "pcqm4m-v2" / "raw")):
        return
    try:
        archive = Path(download_url(SDF_ARCHIVE, str(root)))
        with open(archive, "rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found != SDF_ARCHIVE_MD5:
            raise UserError(f"{archive}: MD5 {found}, expected {SDF_ARCHIVE_MD5}; delete it and try again")
        with tarfile.open(archive) as tar:
            tar.extract(SDF, root, filter="data")
        archive.unlink()
    except (OSError, RuntimeError, tarfile.TarError, KeyError) as error:
        raise UserError(f"the download of {SDF_ARCHIVE} failed ({error}); try again, or put {SDF} into {root}") from error


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--download", action="store_true", help="first fetch the release and its SD file into IN (about 1.6 GB)")
    parser.add_argument("--no-structures", action="store_true", help="leave the SD file out: 2D graphs from SMILES for all splits")


def _open(args: argparse.Namespace) -> Source:
    if args.download:
        download(Path(args.input))
    return PCQM4Mv2(Path(args.input), structures=not args.no_structures)


COMMAND = SourceCommand(
    name="pcqm4mv2",
    summary="PCQM4Mv2: 3.7 million molecules, DFT structures of the training split",
    where="folder of the OGB release (raw/data.csv.gz, split_dict.pt), or the one it lies in",
    add_arguments=_add_arguments,
    open=_open,
)
