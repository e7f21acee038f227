"""`moleblend explain`: what predictions rest on, atom by atom and pair by pair."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_rows_arguments,
    add_runner_arguments,
    check_output,
    check_told_apart,
    runner,
    say,
    say_written,
)
from moleblend_fs.cli.given_molecules import STDOUT, named_input, open_given
from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, delimiter_of, whole_file
from moleblend_fs.inference.checkpoint_fit import parse_allowed
from moleblend_fs.wording import counted, verb

TABLES = (".csv", ".tsv")
ENDINGS = (".html", ".svg", *TABLES)
HEADER = ("row", "smiles", "status", "target", "unit", "prediction", "baseline", "atom", "element", "attribution", "to", "to_element")
RELATIONS = ("spd", "edge", "distance")
EPILOG = """examples:
  moleblend explain runs/logS CCO 'c1ccccc1O' -o why.html      # a page
  moleblend explain runs/logS new.csv -o why.csv -o why.html   # a table and a page of a file's molecules
  moleblend explain runs/logS CCO                              # the table, to standard output
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Tell what predictions rest on. Atoms: integrated gradients (Captum) from a baseline to the atoms' embeddings; they sum to\n"
        "prediction - baseline. Relations: the change of the prediction where a pair of atoms does not show its shortest path (spd), the\n"
        "bonds along it (edge), or its distance. Of a folder of `moleblend finetune` both are means over the members; of classes, numbers\n"
        "are log odds. The table has a line for each atom of each molecule and target, then one for each pair (columns to, to_element,\n"
        "spd, edge, distance). Time grows with the fourth power of a molecule's size; --no-relations leaves the pairs out."
    )
    parser.epilog = EPILOG
    parser.add_argument("model", help="checkpoint of a finetuned model, or a folder of `moleblend finetune`")
    parser.add_argument("molecules", nargs="+", metavar="SMILES|FILE", help="SMILES, or one file as `moleblend predict` reads it; or -")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        type=Path,
        default=[],
        metavar="OUT",
        help="file to write: .html, a page; .csv or .tsv, the table; .svg, the picture of a single molecule. May be given several times "
        "(default: the table, to standard output)",
    )
    parser.add_argument("--target", action="append", metavar="NAME", help="which to explain; may be given several times (default: all)")
    parser.add_argument(
        "--baseline",
        choices=("zero", "masked", "mean"),
        default="zero",
        help="what an atom that says nothing looks like: the embedding zero, pretraining's masked atom, or the mean of the molecule's own "
        "atoms (default: %(default)s; docs/predictions.md says why)",
    )
    parser.add_argument("--no-relations", action="store_true", help="explain by atoms alone")
    add_rows_arguments(parser, smiles=False)
    add_comparison_argument(parser)
    add_runner_arguments(parser, precision=False, rows=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the files."""
    for out in arguments.output:
        if out.suffix.lower() not in ENDINGS:
            raise UserError(f"{out}: the name must end in {', '.join(ENDINGS)}, which says what is written")
    if not arguments.row_timeout > 0:
        raise UserError(f"--row-timeout must be above 0 seconds, got {arguments.row_timeout}")
    check_told_apart(*arguments.output)
    first = arguments.molecules[0]
    from moleblend_fs.predictions.in_memory import is_path

    if len(arguments.molecules) > 1 and (files := [word for word in arguments.molecules if Path(word).suffix and os.path.isfile(word)]):
        raise UserError(f"{files[0]} is a file, but not all that is given; give one file, or SMILES, and what is to be written with -o")
    is_file = len(arguments.molecules) == 1 and (first == "-" or is_path(first) or os.path.isdir(first))
    outs, arguments.output = arguments.output, STDOUT  # which `named_input` would choose otherwise
    arguments.input, arguments.smiles = (first, None) if is_file else (None, arguments.molecules)
    with named_input(arguments):
        return explain(arguments, outs)


def explain(arguments: argparse.Namespace, outs: Sequence[Path]) -> int:
    """Compute and write."""
    from moleblend_fs.predictions.explainer import Explainer

    if arguments.input is not None and arguments.input.is_dir():
        raise UserError(f"{arguments.input} is a folder; give SMILES, or a table, list of SMILES or SD file")
    for out in outs:
        check_output(out, arguments.model, arguments.input)
    how = runner(arguments)
    explainer = Explainer(
        arguments.model,
        targets=arguments.target,
        baseline=arguments.baseline,
        relations=not arguments.no_relations,
        device=how.device,
        max_tokens=how.tokens,
        workers=arguments.workers,
        hydrogens=arguments.hydrogens,
        allow_differences=parse_allowed(arguments.allow_differences),
        row_timeout=arguments.row_timeout,
        tell=lambda line: say(arguments, line),
    )
    incoming = open_given(arguments)
    check_pictures(outs, incoming.count() * len(explainer.targets))
    with ExitStack() as stack:  # before they are computed: what cannot be written should be reported first
        streams = [(out, stack.enter_context(whole_file(out))) for out in outs or [STDOUT]]
        found = all_explained(arguments, explainer, incoming)
        pages = {out: page_of(out, arguments.model, found) for out, _ in streams if not is_table(out)}
        for out, stream in streams:
            if out in pages:
                stream.write(pages[out])
            else:
                CsvWriter(stream, delimiter=delimiter_of(out)).writerows(lines(found))
    failed = sum(not each.prediction.size for each in found)
    if failed:
        told = f"{failed} of {counted(len(found), 'molecule')} {verb(failed, 'is', 'are')} not explained"
        say(arguments, f"{told}; the column status of the table says why")
    for out in outs:
        say_written(out, len(found) - failed, "molecule")
    return 0


def is_table(out: Path) -> bool:
    """Whether a name is a table's; what has none goes to standard output as one."""
    return out.suffix.lower() in TABLES or out == STDOUT


def check_pictures(outs: Sequence[Path], parts: int) -> None:
    """UserError for a picture of several molecules or targets, of which it shows one."""
    for out in outs:
        if out.suffix.lower() == ".svg" and parts > 1:
            raise UserError(f"{out}: a picture is of one molecule and target, there are {parts}; write .html, or name one with --target")


def all_explained(arguments: argparse.Namespace, explainer: Any, incoming: Any) -> list[Any]:
    """All molecules; UserError where none can be explained."""
    found = list(explained(explainer, incoming, progress=not arguments.no_progress))
    if not any(each.elements for each in found):
        told = f"{arguments.molecules[0]}: {found[0].status}" if found else f"{arguments.molecules[0]} holds no molecule"
        raise UserError(f"nothing can be explained: {told}; give SMILES, or a file with a column of SMILES")
    return found


def explained(explainer: Any, incoming: Any, *, progress: bool) -> Iterator[Any]:
    """All molecules, with a line of progress where there are several."""
    from moleblend_fs.predictions.progress import RowProgress

    total = incoming.count()
    with RowProgress(total, shown=progress and total > 1) as line:
        for each in explainer.each(incoming):
            yield each
            line.add(1)


def lines(found: Sequence[Any]) -> Iterator[Sequence[object]]:
    """The table: of each molecule and target a line for each atom, then one for each pair; one line alone where there is none."""
    yield [*HEADER, *RELATIONS]
    for row, each in enumerate(found):
        if not each.prediction.size:
            yield [row, each.smiles, each.status, *[""] * (len(HEADER) - 3 + len(RELATIONS))]
            continue
        for t, (target, unit) in enumerate(zip(each.targets, each.units, strict=True)):
            head = [row, each.smiles, each.status, target, unit, digits(each.prediction[t]), digits(each.baseline[t])]
            for i, element in enumerate(each.elements):
                yield [*head, i, element, digits(each.atoms[t, i]), "", "", "", "", ""]
            for p, (i, j) in enumerate(each.pairs.tolist()):
                changes = [digits(each.relations[name][t, p]) if name in each.relations else "" for name in RELATIONS]
                yield [*head, i, each.elements[i], "", j, each.elements[j], *changes]


def digits(value: float) -> str:
    """A cell."""
    return f"{value:.7g}"


def page_of(out: Path, model: str, found: Sequence[Any]) -> str:
    """The page, or the picture of the one molecule and target."""
    from moleblend_fs.report import explain_page as report

    parts = [
        report.Part(
            graph=each.graph,
            row=row,
            target=target,
            unit=each.units[t],
            status=each.status,
            elements=each.elements,
            prediction=float(each.prediction[t]),
            baseline=float(each.baseline[t]),
            atoms=each.atoms[t],
            pairs=each.pairs,
            relations={name: values[t] for name, values in each.relations.items()},
        )
        for row, each in enumerate(found)
        if each.prediction.size
        for t, target in enumerate(each.targets)
    ]
    if out.suffix.lower() == ".html":
        failed = [(row, each.smiles, each.status) for row, each in enumerate(found) if not each.prediction.size]
        return report.page(model, parts, failed)
    if not parts:
        raise UserError(f"{out}: no picture: {found[0].status}")
    return report.picture(parts[0], alone=True)
