"""Words and options of a command stand in any order."""

import argparse
import shlex

import pytest

from moleblend_fs.cli import embed, finetune, main, predict
from moleblend_fs.cli.parser import Parser


def parsed(module, words: list[str]) -> argparse.Namespace:
    parser = Parser()
    module.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (finetune, ["mine.csv", "runs/mine", "--target", "logS"]),
        (finetune, ["mine.csv", "--target", "logS", "runs/mine"]),
        (finetune, ["--target", "logS", "mine.csv", "runs/mine"]),
        (finetune, ["--target", "logS", "mine.csv", "--epochs", "3", "runs/mine"]),
    ],
)
def test_a_word_after_an_option_is_the_next_argument(module, words):
    arguments = parsed(module, words)
    assert (str(arguments.data), str(arguments.out), arguments.target) == ("mine.csv", "runs/mine", ["logS"])


def test_the_output_of_predictions_may_follow_options():
    arguments = parsed(predict, ["model.pt", "--device", "cpu", "in.csv", "--workers", "0", "out.csv"])
    assert [str(arguments.model), str(arguments.input), str(arguments.output)] == ["model.pt", "in.csv", "out.csv"]


def test_words_that_are_too_many_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(predict, ["model.pt", "in.csv", "--device", "cpu", "out.csv", "another"])
    assert ended.value.code == 2
    assert "another" in capsys.readouterr().err


def test_commands_within_a_command_are_found(capsys):
    parser = Parser(prog="outer")
    commands = parser.add_subparsers(dest="command", required=True)
    inner = commands.add_parser("inner")
    inner.add_argument("first")
    inner.add_argument("second", nargs="?")
    inner.add_argument("--option")
    arguments = parser.parse_args(["inner", "a", "--option", "x", "b"])
    assert (arguments.first, arguments.second, arguments.option) == ("a", "b", "x")
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "required: command" in capsys.readouterr().err


def test_examples_of_embed_name_a_file_to_write():
    examples = [shlex.split(line, comments=True) for line in embed.EPILOG.splitlines() if line.strip().startswith("moleblend embed")]
    assert len(examples) == 4
    for words in examples:
        arguments = parsed(embed, words[2:])
        last = arguments.output or arguments.input  # with --smiles the one name is OUT
        assert str(last).endswith(embed.ENDINGS)


@pytest.mark.parametrize("given", ["finetune mine.csv --out runs/mine", "preprocess qm9 qm9pack store --work 2"])
def test_the_beginning_of_an_options_name_is_not_the_option(given, capsys):
    words = given.split()
    with pytest.raises(SystemExit):
        main.run(words)
    assert f"unrecognized arguments: {' '.join(words[-2:])}" in capsys.readouterr().err
