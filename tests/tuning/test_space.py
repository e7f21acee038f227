"""What a search may choose from; a mistake in a user's space is named."""

import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.tuning.space import check_space, parse_dimension, settings_with, space_of

PLAIN, PRETRAINED = Settings(), Settings(weights="x.pt")


def shown(asked, settings, molecules, kind="regression"):
    return [str(each) for each in space_of(asked, settings, molecules, kind)]


def test_the_papers_spaces():
    """Table 9: learning rate 1e-6 to 1e-4, weight decay 1e-7 to 1e-3; batches and epochs by the set."""
    common = ["lr=1e-06..0.0001", "weight-decay=1e-07..0.001"]
    small = [*common, "batch-size=32,64,128,256", "epochs=40,60,80,100"]
    assert shown((), PRETRAINED, 7831) == small == shown(("table9",), PLAIN, 50)
    assert shown((), PRETRAINED, 41_127) == [*common, "batch-size=128,256", "epochs=2,5,10"]
    assert shown((), PRETRAINED, 93_087) == [*common, "batch-size=128,256", "epochs=20,40"]


def test_around_the_table_without_a_checkpoint():
    """Published weights, which may be chosen by themselves, have a column of the table."""
    decay = "weight-decay=1e-07..0.001"
    assert shown((), PLAIN, 800) == ["lr=0.0002..0.005", decay, "batch-size=8,16,32", "epochs=30,60,120"]
    assert shown((), Settings(weights="small"), 800) == ["lr=4e-05..0.001", decay, "batch-size=16,32,64", "epochs=10,20,40"]
    few = shown((), Settings(weights="small"), 600)
    assert few == ["lr=0.0001..0.003", decay, "batch-size=8,16,32", "epochs=20,40,80"]
    assert shown((), Settings(weights="small"), 600, "classification") == shown((), Settings(weights="small"), 601) != few


def test_a_named_space_is_changed_and_what_is_given_leaves_it():
    settings = Settings(weights="x.pt", epochs=3)
    assert shown(("table9", "lr=1e-3,1e-2"), settings, 100) == ["weight-decay=1e-07..0.001", "batch-size=32,64,128,256", "lr=0.001,0.01"]
    assert shown(("arch=tiny,small", "dropout=0..0.5"), PLAIN, 100) == ["arch=tiny,small", "dropout=0.0..0.5"]


def test_values_are_written_so_that_they_are_read_again():
    found = settings_with({"lr": 0.00123456789, "epochs": 40, "arch": "tiny"})
    assert found == {"lr": 0.001235, "epochs": 40, "arch": "tiny"}
    assert float(f"{found['lr']:g}") == found["lr"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate=1..2", "nothing to search is called 'learning-rate'; there are: lr, weight-decay"),
        ("table8", "neither NAME=VALUES nor one of table9"),
        ("lr=fast", "'fast' is no number"),
        ("lr=", "'' is no number"),
        ("lr=1e-3..1e-4", "from a smaller number to a larger one"),
        ("lr=0..1e-3", "must be above 0"),
        ("weight-decay=0..1e-3", "must begin above 0"),
        ("lr=-1", "must be above 0"),
        ("lr=nan", "must be above 0"),
        ("lr=1e-3..inf", "must be above 0"),
        ("epochs=1.5", "is no whole number"),
        ("epochs=0,10", "epochs must be at least 1, got 0"),
        ("batch-size=32,32", "a value stands there twice"),
        ("dropout=0.5,1", "must be at least 0 and below 1, got 1"),
        ("arch=tiny..base", "arch has no range"),
        ("arch=tiny,medium", "'medium' is no arch; there are: tiny, small"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError, match=message) as caught:
        check_space([text], PLAIN)
    assert f"--space {text}" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "settings", "message"),
    [
        (("lr=1,2", "lr=3"), PLAIN, "--space lr is given twice"),
        (("table9", "table9-hiv"), PLAIN, "table9 and table9-hiv are two spaces"),
        (("lr=1,2",), Settings(lr=0.1), "--lr is given, and --space lr"),
        (("arch=tiny,small",), PRETRAINED, "the size is that of --weights"),
    ],
)
def test_spaces_that_contradict(asked, settings, message):
    with pytest.raises(UserError, match=message):
        check_space(asked, settings)


def test_a_mistake_is_told_before_anything_is_made(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("smiles,y\nCCO,1\n")
    words = ["tune", str(tmp_path / "a.csv"), str(tmp_path / "out"), "--target", "y"]
    assert main([*words, "--space", "epochs=ten"]) == 2
    assert "moleblend tune: --space epochs=ten: 'ten' is no whole number" in capsys.readouterr().err
    assert main([*words, "--trials", "0"]) == 2
    assert "--trials must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_words_of_settings_give_the_settings_again():
    """What command.sh of the winner's folder is made of."""
    from argparse import ArgumentParser

    from moleblend_fs.cli.finetune import add_arguments, settings_of

    settings = Settings(
        targets=("a:regression:eV", "b,c"), split="random", fractions=(0.7, 0.2, 0.1), lr=1.235e-4, weight_decay=1e-7, dropout=0.0, epochs=3
    )
    parser = ArgumentParser()
    add_arguments(parser)
    assert settings_of(parser.parse_args(["data.csv", *settings.words()])) == settings
    assert Settings().words() == []
    assert parse_dimension("batch-size=8").values == (8,)
