"""Options of `moleblend preprocess` that several sources have, and what they are made into."""

import argparse

from moleblend_fs.chem.conformers import MAX_CONFORMERS, MINIMISATION_STEPS, ConformerOptions
from moleblend_fs.chem.mol_to_graph import MAX_ATOMS
from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.shared_options import seed


def add_hydrogens(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--hydrogens",
        choices=("explicit", "none"),
        default=default,
        help="whether hydrogens are atoms of the graph (default %(default)s)",
    )


def add_max_atoms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-atoms",
        type=int,
        default=MAX_ATOMS,
        metavar="N",
        help="larger molecules are listed in failures.csv; time and memory grow with the square (default, and most: %(default)s)",
    )


def add_conformers(parser: argparse.ArgumentParser) -> None:
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


def add_split(parser: argparse.ArgumentParser, default: str | None, kinds: tuple[str, ...]) -> None:
    group = parser.add_argument_group("split")
    group.add_argument(
        "--split",
        choices=kinds,
        default=default,
        help="scaffold: whole Bemis-Murcko scaffolds, largest first; random; none: everything is train "
        f"(default {default or 'random; prescribed with --split-column'})",
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
    add_together(group)


def add_together(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--split-together",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep repeated molecules in one part of a random split, so that none is trained on and tested (default yes)",
    )


def add_labels(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME[:KIND[:UNIT]]",
        help=f"{what} to learn; KIND, regression or classification, must be said where all values are 0 and 1; may be given several times",
    )


def splitter_of(args: argparse.Namespace) -> Splitter:
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


def build_of(args: argparse.Namespace) -> BuildOptions:
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


def prescribe(args: argparse.Namespace) -> None:
    """The split as --split and --split-column together ask for it."""
    args.split = args.split or ("prescribed" if args.split_column else "random")
    if (args.split == "prescribed") != (args.split_column is not None):
        raise UserError("--split prescribed and --split-column NAME go together")
