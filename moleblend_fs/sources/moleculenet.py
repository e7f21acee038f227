"""The eleven MoleculeNet sets of the paper, from DeepChem's CSV files or ones named after the sets."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.csv_and_smiles import CsvSource
from moleblend_fs.sources.delimited import Table
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.shared_options import add_conformers, add_hydrogens, add_max_atoms, add_split, build_of, splitter_of

SMILES_COLUMNS = ("smiles", "mol")
NOT_LABELS = (*SMILES_COLUMNS, "mol_id", "name", "num")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoleculeNetSet:
    """One set.

    Attributes:
        kind: of all its labels.
        files: names that its file goes by, without extensions, in lower case.
        labels: the store's label -> the column's names in the files in circulation; None for all columns but the molecule's.
        unit: unit of its labels.
    """

    kind: str
    files: tuple[str, ...]
    labels: dict[str, tuple[str, ...]] | None
    unit: str = ""


SETS = {
    "bace": MoleculeNetSet(kind="classification", files=("bace",), labels={"Class": ("Class",)}),
    "bbbp": MoleculeNetSet(kind="classification", files=("bbbp",), labels={"p_np": ("p_np",)}),
    "clintox": MoleculeNetSet(kind="classification", files=("clintox",), labels={"FDA_APPROVED": ("FDA_APPROVED",), "CT_TOX": ("CT_TOX",)}),
    "esol": MoleculeNetSet(
        kind="regression",
        files=("esol", "delaney-processed", "delaney"),
        labels={"logSolubility": ("logSolubility", "measured log solubility in mols per litre")},
        unit="log mol/L",
    ),
    "freesolv": MoleculeNetSet(
        kind="regression", files=("freesolv", "sampl"), labels={"freesolv": ("freesolv", "expt", "y")}, unit="kcal/mol"
    ),
    "hiv": MoleculeNetSet(kind="classification", files=("hiv",), labels={"HIV_active": ("HIV_active",)}),
    "lipo": MoleculeNetSet(kind="regression", files=("lipo", "lipophilicity"), labels={"lipo": ("lipo", "exp")}, unit="logD"),
    "muv": MoleculeNetSet(kind="classification", files=("muv",), labels=None),
    "sider": MoleculeNetSet(kind="classification", files=("sider",), labels=None),
    "tox21": MoleculeNetSet(kind="classification", files=("tox21",), labels=None),
    "toxcast": MoleculeNetSet(kind="classification", files=("toxcast", "toxcast_data"), labels=None),
}


class MoleculeNet(CsvSource):
    """A set in the file `path`, see `open_moleculenet`."""

    name = "moleculenet"


def open_moleculenet(path: Path, *, set_name: str | None, build: BuildOptions, splitter: Splitter) -> MoleculeNet:
    """Find out which set a file holds and which of its columns are the labels.

    Raises:
        UserError: a set that cannot be told from the file's name, or a file that lacks the set's columns.
    """
    if set_name is None:
        stem = path.name.lower().split(".")[0]
        set_name = next((name for name, info in SETS.items() if stem in info.files), None)
    if set_name not in SETS:
        raise UserError(f"{path}: which MoleculeNet set is this? Give --name, one of: {', '.join(SETS)}")
    info = SETS[set_name]
    table = Table(path, [SMILES_COLUMNS])
    header = table.header
    smiles = next((name for name in SMILES_COLUMNS if name in header), None)
    if smiles is None:
        raise UserError(f"{path}: no column of SMILES (smiles or mol); the file has: {', '.join(header[:20])}")
    if info.labels is None:
        columns = {name: name for name in header if name not in NOT_LABELS}
    else:
        columns = {label: _first(path, header, names, set_name) for label, names in info.labels.items()}
    if not columns:
        raise UserError(f"{path}: no label column for {set_name}; the file has only: {', '.join(header)}")
    return MoleculeNet(
        table,
        smiles_column=smiles,
        labels=[LabelSpec(name=label, unit=info.unit, kind=info.kind) for label in columns],
        columns=list(columns.values()),
        build=build,
        splitter=splitter,
    )


def _first(path: Path, header: Sequence[str], names: Sequence[str], set_name: str) -> str:
    found = next((name for name in names if name in header), None)
    if found is None:
        raise UserError(f"{path}: no label column {' or '.join(map(repr, names))} for {set_name}; the file has: {', '.join(header[:20])}")
    return found


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", choices=list(SETS), help="which set it is; by default told from the file's name")
    add_hydrogens(parser, "none")
    add_max_atoms(parser)
    add_split(parser, "scaffold", ("scaffold", "random", "none"))
    add_conformers(parser)


def _open(args: argparse.Namespace) -> Source:
    return open_moleculenet(Path(args.input), set_name=args.name, build=build_of(args), splitter=splitter_of(args))


COMMAND = SourceCommand(
    name="moleculenet",
    summary="one of the eleven MoleculeNet sets of the paper",
    where="CSV file of the set (DeepChem's, or one with smiles and label columns), perhaps packed",
    add_arguments=_add_arguments,
    open=_open,
)
