"""`moleblend preprocess SOURCE IN OUT`: real formats in, a store out."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from moleblend_fs.chem.build import BuildOptions
from moleblend_fs.chem.conformers import MAX_CONFORMERS, MINIMISATION_STEPS, ConformerOptions
from moleblend_fs.chem.featurize import MAX_ATOMS
from moleblend_fs.cli.summary import print_summary
from moleblend_fs.cli.values import seed
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.errors import UserError
from moleblend_fs.sources import moleculenet, pcqm4mv2, qm9, sdf, tables, unimol_lmdb
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.delimited import Table
from moleblend_fs.sources.labels import parse_label
from moleblend_fs.sources.run import preprocess, preprocess_shard
from moleblend_fs.sources.sdf_records import item_names
from moleblend_fs.sources.workers import ROW_TIMEOUT

RESUME = "A run that was stopped goes on where it was when the same command is given again."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read molecules, compute their features and pair features once, and write a store for training. "
        f"Rows that give no molecule are listed with the reason in OUT/failures.csv. {RESUME}"
    )
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, add, summary in (
        ("pcqm4mv2", _add_pcqm4mv2, "PCQM4Mv2: 3.7 million molecules, DFT structures of the training split"),
        ("qm9", _add_qm9, "QM9: DFT structures and 12 targets"),
        ("moleculenet", _add_moleculenet, "one of the eleven MoleculeNet sets of the paper"),
        ("unimol", _add_unimol, "Uni-Mol's LMDB files, with their conformers"),
        ("csv", _add_csv, "your CSV file with a column of SMILES"),
        ("sdf", _add_sdf, "your SD file; structures are kept"),
        ("smiles", _add_smiles, "your list of SMILES, one a line"),
    ):
        add(sources.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {RESUME}"))


def run(args: argparse.Namespace) -> int:
    if args.workers < 1:
        raise UserError(f"--workers must be at least 1, got {args.workers}")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, got {args.limit}")
    if os.path.lexists(args.output):
        raise UserError(f"{args.output} exists already; choose another OUT, or delete it first")
    shard = None if args.shard is None else ShardNumber.parse(args.shard)
    if not args.row_timeout > 0:
        raise UserError(f"--row-timeout must be above 0 seconds, got {args.row_timeout}")
    source: Source = args.open(args)
    for note in source.notes:
        print(f"note: {note}", flush=True)
    begin = time.monotonic()
    how = {"workers": args.workers, "limit": args.limit, "row_timeout": args.row_timeout, "progress": not args.no_progress}
    if shard is not None:
        info = preprocess_shard(source, args.output, shard, **how)
        print(
            f"{shard.path(args.output)}: shard {shard} with {info.molecules:,} molecules and {info.failures:,} failures from {info.rows:,} "
            f"of {info.source_rows:,} rows in {time.monotonic() - begin:.1f} s; with all shards there: moleblend merge {args.output}"
        )
        return 0
    manifest = preprocess(source, args.output, **how)
    print_summary(manifest, Path(args.output), time.monotonic() - begin)
    return 0


def _common(parser: argparse.ArgumentParser, where: str, open_source: Callable[[argparse.Namespace], Source]) -> None:
    parser.add_argument("input", metavar="IN", help=where)
    parser.add_argument("output", metavar="OUT", help="folder of the new store; must not exist")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="processes; the store is the same for any number (default %(default)s)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows, for trials")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only the I-th of N parts (I from 0), into OUT.shards/; when all N are there, `moleblend merge OUT` makes the store",
    )
    parser.add_argument(
        "--row-timeout",
        type=float,
        default=ROW_TIMEOUT,
        metavar="SECONDS",
        help="time limit for a row, besides that for its conformers; one that takes longer is listed in failures.csv (default %(default)g)",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.set_defaults(open=open_source)


def _add_hydrogens(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--hydrogens",
        choices=("explicit", "none"),
        default=default,
        help="whether hydrogens are atoms of the graph (default %(default)s)",
    )


def _add_max_atoms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-atoms",
        type=int,
        default=MAX_ATOMS,
        metavar="N",
        help="larger molecules are listed in failures.csv; time and memory grow with the square (default, and most: %(default)s)",
    )


def _add_conformers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("conformers (ETKDG, relaxed with MMFF94)")
    group.add_argument(
        "--conformers", type=int, default=0, metavar="K", help=f"conformers per molecule, at most {MAX_CONFORMERS} (default: none, 2D only)"
    )
    group.add_argument("--conformer-seed", type=seed, default=0, metavar="SEED", help="seed of the embedding (default 0)")
    group.add_argument(
        "--conformer-steps",
        type=int,
        default=MINIMISATION_STEPS,
        metavar="N",
        help="steps of the minimiser for each conformer, at most; 0 leaves the embedding as it is (default %(default)s)",
    )
    group.add_argument(
        "--conformer-timeout",
        type=int,
        default=30,
        metavar="SECONDS",
        help="time limit per molecule; one that cannot be embedded stays as 2D and is listed in failures.csv (default 30)",
    )


def _add_split(parser: argparse.ArgumentParser, default: str, kinds: tuple[str, ...]) -> None:
    group = parser.add_argument_group("split")
    group.add_argument(
        "--split",
        choices=kinds,
        default=default,
        help="scaffold: whole Bemis-Murcko scaffolds, largest first; random; none: everything is train (default %(default)s)",
    )
    group.add_argument(
        "--split-chirality",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep stereochemistry in the scaffolds, as Hu et al. 2020 do (default yes)",
    )
    group.add_argument(
        "--split-fractions", default="0.8,0.1,0.1", metavar="F,F,F", help="shares of train, valid and test (default %(default)s)"
    )
    group.add_argument("--split-seed", type=seed, default=0, metavar="SEED", help="seed of the random split (default 0)")
    _add_together(group)


def _add_together(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--split-together",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep repeated molecules in one part of a random split, so that none is trained on and tested (default yes)",
    )


def _splitter(args: argparse.Namespace) -> Splitter:
    try:
        fractions = tuple(float(x) for x in args.split_fractions.split(","))
    except ValueError as error:
        raise UserError(f"--split-fractions must be three numbers like 0.8,0.1,0.1, got {args.split_fractions!r}") from error
    return Splitter(
        kind=args.split,
        fractions=fractions,  # type: ignore[arg-type]  # the splitter checks their number
        seed=args.split_seed,
        chirality=args.split_chirality,
        together=args.split_together,
    )


def _build(args: argparse.Namespace) -> BuildOptions:
    try:
        conformers = (
            ConformerOptions(count=args.conformers, seed=args.conformer_seed, timeout=args.conformer_timeout, steps=args.conformer_steps)
            if "conformers" in args
            else ConformerOptions()
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if not 1 <= args.max_atoms <= MAX_ATOMS:
        raise UserError(f"--max-atoms must lie in 1 to {MAX_ATOMS}, got {args.max_atoms}")
    scaffold = None
    if args.split == "scaffold":
        scaffold = "chiral" if args.split_chirality else "plain"
    return BuildOptions(hydrogens=args.hydrogens == "explicit", scaffold=scaffold, conformers=conformers, max_atoms=args.max_atoms)


def _add_pcqm4mv2(parser: argparse.ArgumentParser) -> None:
    def open_source(args: argparse.Namespace) -> Source:
        if args.download:
            pcqm4mv2.download(Path(args.input))
        return pcqm4mv2.PCQM4Mv2(Path(args.input), structures=not args.no_structures)

    _common(parser, "folder of the OGB release (raw/data.csv.gz, split_dict.pt), or the one it lies in", open_source)
    parser.add_argument("--download", action="store_true", help="first fetch the release and its SD file into IN (about 1.6 GB)")
    parser.add_argument("--no-structures", action="store_true", help="leave the SD file out: 2D graphs from SMILES for all splits")


def _add_qm9(parser: argparse.ArgumentParser) -> None:
    def open_source(args: argparse.Namespace) -> Source:
        splitter = Splitter(kind="random", fractions=qm9.SPLITTER.fractions, seed=args.split_seed, together=args.split_together)
        return qm9.open_qm9(args.input, hydrogens=args.hydrogens == "explicit", splitter=splitter)

    _common(
        parser,
        "qm9pack (the installed package), a CSV file with its columns, or a folder with gdb9.sdf and gdb9.sdf.csv",
        open_source,
    )
    _add_hydrogens(parser, "explicit")
    parser.add_argument(
        "--split-seed", type=seed, default=0, metavar="SEED", help="seed of the random split 110,000 : 10,000 : 10,831 (default 0)"
    )
    _add_together(parser)


def _add_moleculenet(parser: argparse.ArgumentParser) -> None:
    def open_source(args: argparse.Namespace) -> Source:
        return moleculenet.open_moleculenet(Path(args.input), set_name=args.name, build=_build(args), splitter=_splitter(args))

    _common(parser, "CSV file of the set (DeepChem's, or one with smiles and label columns), perhaps packed", open_source)
    parser.add_argument("--name", choices=list(moleculenet.SETS), help="which set it is; by default told from the file's name")
    _add_hydrogens(parser, "none")
    _add_max_atoms(parser)
    _add_split(parser, "scaffold", ("scaffold", "random", "none"))
    _add_conformers(parser)


def _add_unimol(parser: argparse.ArgumentParser) -> None:
    def open_source(args: argparse.Namespace) -> Source:
        labels = [parse_label(text) for text in args.label]
        return unimol_lmdb.UniMolLmdb(Path(args.input), labels=labels, build=_build(args), splitter=_splitter(args))

    _common(parser, "LMDB file, or folder with train.lmdb, valid.lmdb, test.lmdb (which then are the splits)", open_source)
    _add_labels(parser, "a target, in the order of the file,")
    _add_hydrogens(parser, "none")
    _add_max_atoms(parser)
    _add_split(parser, "random", ("random", "scaffold", "none"))


def _add_csv(parser: argparse.ArgumentParser) -> None:
    def open_source(args: argparse.Namespace) -> Source:
        table = Table(Path(args.input), [[args.smiles_column]])
        _prescribe(args)
        return tables.CsvSource(
            table,
            smiles_column=args.smiles_column,
            labels=[parse_label(text, table.header) for text in args.label],
            build=_build(args),
            splitter=_splitter(args),
            split_column=args.split_column,
        )

    _common(
        parser,
        "table as text, with a header; commas, tabs or semicolons between cells; perhaps packed (.gz, .xz, .bz2, .zip)",
        open_source,
    )
    parser.add_argument("--smiles-column", default="smiles", metavar="NAME", help="column of SMILES (default %(default)s)")
    _add_labels(parser, "a column")
    parser.add_argument("--split-column", metavar="NAME", help="column that says train, valid or test")
    _add_hydrogens(parser, "none")
    _add_max_atoms(parser)
    _add_split(parser, None, ("random", "scaffold", "prescribed", "none"))  # type: ignore[arg-type]
    _add_conformers(parser)


def _add_labels(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME[:KIND[:UNIT]]",
        help=f"{what} to learn; KIND, regression or classification, must be said where all values are 0 and 1; may be given several times",
    )


def _add_sdf(parser: argparse.ArgumentParser) -> None:
    def open_source(args: argparse.Namespace) -> Source:
        path = Path(args.input)
        names = item_names(path) if args.label else []
        _prescribe(args)
        return sdf.SdfSource(
            path,
            labels=[parse_label(text, names) for text in args.label],
            build=_build(args),
            splitter=_splitter(args),
            split_item=args.split_column,
            join=args.same_molecule == "conformers",
        )

    _common(parser, "SD file, perhaps packed (.gz, .xz, .bz2, .zip)", open_source)
    _add_labels(parser, "a data item")
    parser.add_argument(
        "--same-molecule",
        choices=("conformers", "apart"),
        default="conformers",
        help="records of one molecule, wherever they stand: conformers of it, with the labels of the first, or molecules of their own",
    )
    parser.add_argument("--split-column", metavar="NAME", help="data item that says train, valid or test")
    _add_hydrogens(parser, "none")
    _add_max_atoms(parser)
    _add_split(parser, None, ("random", "scaffold", "prescribed", "none"))  # type: ignore[arg-type]


def _prescribe(args: argparse.Namespace) -> None:
    """The split as --split and --split-column together ask for it."""
    args.split = args.split or ("prescribed" if args.split_column else "random")
    if (args.split == "prescribed") != (args.split_column is not None):
        raise UserError("--split prescribed and --split-column NAME go together")


def _add_smiles(parser: argparse.ArgumentParser) -> None:
    def open_source(args: argparse.Namespace) -> Source:
        return tables.SmilesFile(Path(args.input), build=_build(args), splitter=_splitter(args))

    _common(parser, 'text file with one "SMILES name" a line, perhaps packed (.gz)', open_source)
    _add_hydrogens(parser, "none")
    _add_max_atoms(parser)
    _add_split(parser, "random", ("random", "scaffold", "none"))
    _add_conformers(parser)
