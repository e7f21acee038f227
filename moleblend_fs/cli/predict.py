"""`moleblend predict`: predictions of molecules in tables, lists, SD files and stores; representations of a store's."""

import argparse
from pathlib import Path

from moleblend_fs import __version__
from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_rows_arguments,
    add_runner_arguments,
    add_split_arguments,
    check_output,
    check_runner,
    say,
    say_precision,
    say_written,
)
from moleblend_fs.cli.given_molecules import check_given, is_store, named_input, open_rows, open_stored
from moleblend_fs.errors import UserError
from moleblend_fs.files import is_stream
from moleblend_fs.wording import counted

EPILOG = """examples:
  moleblend predict runs/logS new.csv                        # writes new.predictions.csv
  moleblend predict runs/logS/checkpoint_best.pt new.sdf.gz out.csv --workers 4
  moleblend predict runs/logS --smiles CCO c1ccccc1          # to standard output
  grep -v Cl list.smi | moleblend predict runs/logS - > predictions.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write a line for every row of the input, in its order: all of its columns, a column for each target, and a status. It\n"
        "is 'ok', or says that a model of inputs 2d+3d had no 3D structure to go by, or why there is no prediction. Hydrogens and\n"
        "conformers are made as for the model's training. A run that was stopped goes on where it was when the same command is\n"
        "given again. Of a folder of `moleblend finetune` there are also the members' standard deviation, an interval that holds\n"
        "the value with the probability of --interval (of classes: a calibrated probability), the similarity to the nearest\n"
        "training molecule (Tanimoto of ECFP4), and whether it is less than that of 95 % of the training molecules among each other."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        help="checkpoint (.pt of a training run, or a folder of `moleblend convert`), a folder of `moleblend finetune`, or a file of "
        "`moleblend export` (.onnx); with --embeddings a name of published weights too",
    )
    parser.add_argument(
        "input",
        nargs="?",
        help="table with a column of SMILES (commas, tabs, semicolons, Excel, Parquet), list of SMILES, SD file, each perhaps packed "
        "(.gz, .xz, .bz2, .zip); a store; or - for standard input",
    )
    parser.add_argument(
        "output",
        nargs="?",
        type=Path,
        help="CSV to write, packed where its name ends in .gz, .xz, .bz2 (default: INPUT.predictions.csv beside the input; standard output "
        "for - and --smiles); with --embeddings a NumPy file",
    )
    add_rows_arguments(parser)
    parser.add_argument("--interval", type=float, default=0.9, metavar="P", help="probability of intervals (default: %(default)s)")
    parser.add_argument("--no-similarity", action="store_true", help="leave out the similarity to training molecules, which takes time")
    store = parser.add_argument_group("of a store")
    store.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="the table, list of SMILES or SD file that the store was made from: its columns (names, titles) stand in each line as well",
    )
    store.add_argument("--split", help="only this split's molecules, in the store's order; the whole source by default")
    store.add_argument("--embeddings", choices=("2d", "3d", "2d+3d"), help="write graph-token representations from these inputs instead")
    add_split_arguments(store)
    add_comparison_argument(parser)
    add_runner_arguments(parser, rows=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    check_given(arguments, "a table, list of SMILES, SD file, store, or -")
    if arguments.embeddings is not None and arguments.source is not None:
        raise UserError("--source goes with predictions, --embeddings writes an array without text; leave one of them out")
    if not 0 < arguments.interval < 1:
        raise UserError(f"--interval must lie between 0 and 1, got {arguments.interval}")
    with named_input(arguments):
        if arguments.embeddings is None:
            return run_predictions(arguments)
        from moleblend_fs.cli.store_embeddings import run_embeddings

        return run_embeddings(arguments)


def run_predictions(arguments: argparse.Namespace) -> int:
    """Predictions of whatever input, as CSV."""
    from moleblend_fs.predictions.open_model import open_model
    from moleblend_fs.predictions.resumable_table import check_name
    from moleblend_fs.predictions.table import PredictionTable
    from moleblend_fs.predictions.writing import write_table

    model = open_model(arguments.model)
    check_output(arguments.output, arguments.model, arguments.input, arguments.source, arguments.split_file)
    check_name(arguments.output)
    opened = (
        open_stored(arguments, model.described, model.about.inputs)
        if arguments.input is not None and is_store(arguments.input)
        else open_rows(arguments, model.described, model.about.inputs)
    )
    device = model.device(arguments.device)
    check_runner(arguments)
    domain = None if arguments.no_similarity else model.domain()
    table = PredictionTable(model, opened.columns, domain=domain, level=arguments.interval)
    request = opened.request | {"model": model.sha256(), "columns": table.header, "interval": arguments.interval}
    request |= {"device": device.partition(":")[0], "version": __version__}
    if arguments.precision != "float32":
        request["precision"] = arguments.precision
    progress = not arguments.no_progress and not is_stream(arguments.output)
    say_precision(arguments, device)
    with model.computing(device, arguments.max_tokens, arguments.precision) as forward:
        write_table(
            arguments.output,
            opened.begin,
            table,
            forward,
            request,
            total=opened.total() if progress else None,
            progress=progress,
            tell=lambda line: say(arguments, line),
        )
    left_out = [
        f"{counted(count, 'row of the source has', 'rows of the source have')} no line: {why}"
        for why, count in opened.left_out().items()
        if count
    ]
    where = "the table" if is_stream(arguments.output) else str(arguments.output)
    for line in [*table.said(where), *left_out]:
        say(arguments, line)
    say_written(arguments.output, table.molecules, "molecule")
    return 0
