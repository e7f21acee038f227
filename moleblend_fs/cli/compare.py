"""`moleblend compare RUN...`: are methods on the same splits different, by how much, and does it matter?"""

import argparse
from pathlib import Path

from moleblend_fs.cli.common import check_output, check_told_apart, say, text_beside
from moleblend_fs.comparison.analysis import Choices, compare, overall, parse_thresholds
from moleblend_fs.comparison.output import as_text, write_pairs
from moleblend_fs.comparison.read import read
from moleblend_fs.comparison.score_lines import named
from moleblend_fs.comparison.tables import tables
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.wording import counted

EPILOG = """examples:
  moleblend compare small=runs/small base=runs/base --html compared.html     # folders of moleblend finetune, the same splits
  moleblend compare scores.csv --csv pairs.csv                               # method, dataset, repeat, fold, metric, value
  moleblend compare predictions.csv --reference 'random forest'              # method, split, id, label, prediction
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Compare methods that were scored on the same splits: paired differences with 95 % intervals, repeated-measures ANOVA and Tukey's\n"
        "HSD, or Friedman's test and Conover's with Holm's correction, effect sizes, and whether a difference is as large as matters.\n"
        "Different splits, test molecules, labels or units are refused. docs/compare.md says how to read it."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "runs", metavar="[METHOD=]RUN", nargs="+", help="folder of `moleblend finetune`, or a table of scores or predictions"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="page to write")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="table of all pairs to write")
    parser.add_argument("--metric", default="", metavar="NAME", help="score to compare (default: rmse, roc_auc, or the only one)")
    parser.add_argument(
        "--reference", default="", metavar="METHOD", help="what others are compared with (default: the best of each data set)"
    )
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="[METRIC=]D",
        help="least difference that matters, or share of the best mean: 0.01, 2%%, roc_auc=0.005 (default: 0.005 of scores up to 1, 2%% of "
        "errors)",
    )
    parser.add_argument(
        "--test", choices=("auto", "anova", "friedman"), default="auto", help="auto: ANOVA where its assumptions may hold (default)"
    )
    parser.add_argument("--independent", action="store_true", help="take splits for independent, though what is trained on overlaps")
    parser.add_argument("--higher", action="append", default=[], metavar="METRIC", help="more of this score is better")
    parser.add_argument("--lower", action="append", default=[], metavar="METRIC", help="less of this score is better")
    parser.add_argument("--title", default="Methods compared", help="of the page")


def run(arguments: argparse.Namespace) -> int:
    """Print the tables, and write what is asked for."""
    for output in (arguments.html, arguments.csv):
        check_output(output, *(word.partition("=")[2] or word for word in arguments.runs), *arguments.runs)
    check_told_apart(arguments.html, arguments.csv)
    higher, lower = (tuple(map(named, words)) for words in (arguments.higher, arguments.lower))
    if both := set(higher) & set(lower):
        raise UserError(f"{', '.join(sorted(both))}: --higher and --lower; say one of them")
    choices = Choices(test=arguments.test, thresholds=parse_thresholds(arguments.threshold), correct_overlap=not arguments.independent)
    found, notes = tables(read(arguments.runs), metric=named(arguments.metric), higher=higher, lower=lower)
    methods = {method for table in found for method in table.methods}
    if arguments.reference and arguments.reference not in methods:
        raise UserError(f"--reference {arguments.reference}: no such method; there are {', '.join(sorted(methods))}")
    compared = [compare(table, choices) for table in found]
    ranks = overall(compared)
    for note in notes:
        say(arguments, note)
    if arguments.html is not None:
        from moleblend_fs.comparison.page import build

        write_atomically(arguments.html, build(compared, ranks, arguments.reference, notes, arguments.title))
    pairs = write_pairs(arguments.csv, compared) if arguments.csv is not None else 0
    with text_beside(arguments.html, arguments.csv):
        print(as_text(compared, ranks, arguments.reference))
        if arguments.csv is not None:
            print(f"\n{counted(pairs, 'pair')}: {arguments.csv}")
        if arguments.html is not None:
            print(f"written: {arguments.html}")
    return 0
