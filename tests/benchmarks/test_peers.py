"""The comparison with other programs, as far as it goes without installing them: commands, what they leave and print, and the rows."""

import argparse
import csv
import gzip
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from string import Formatter

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import row
from benchmarks.peer_environments import environment, install_pinned, is_installed, place_of, requirements
from benchmarks.peers import measurement
from benchmarks.peers.measurement import Measured, answer_of, ask, readable, split_table
from benchmarks.peers.programs import CHEMPROP_SPLIT, FINETUNE, HERE, OURS, PREDICT, PROGRAMS
from benchmarks.peers.serving import SMILES, SPLIT, VALUE, read
from benchmarks.predict import untrained
from moleblend_fs.cli import finetune, predict
from moleblend_fs.cli import main as commands
from tests.conftest import ROOT
from tests.finetune.conftest import ESOL


@pytest.fixture
def table(tmp_path) -> Path:
    """ESOL's columns; one molecule stands there twice, and one that RDKit does not read."""
    path = tmp_path / "esol.csv.gz"
    with gzip.open(path, "wt", newline="") as stream:
        rows = [line.rsplit(",", 1) for line in ESOL.strip().splitlines()]
        csv.writer(stream).writerows([[SMILES, VALUE], *rows, ["CCO", "9.9"]])
    return path


def forest(tmp_path, table) -> Measured:
    """Our own environment in the place of the program's: it has what the forest needs."""
    (tmp_path / "work" / "environments").mkdir(parents=True)
    (tmp_path / "work" / "environments" / "forest").symlink_to(sys.prefix)
    return Measured(tmp_path / "work", table, table, 1, {"forest": PROGRAMS["forest"]})


def test_the_command_says_what_it_measures(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["peers", "--help"])
    said = capsys.readouterr().out
    assert "environments of their own" in said
    for option in ("--esol", "--molecules", "--counts", "--cores", "--only", "--folder"):
        assert option in said


def test_commands_name_what_there_is():
    """Places that are filled in, scripts, files of pinned packages, and options of our own commands."""
    for program in PROGRAMS.values():
        commands = [program.train, program.start, program.serve]
        assert program.serve
        assert bool(program.train) == bool(program.scored)
        assert not program.requirements or all("==" in line for line in requirements(program.requirements).read_text().split())
        for word in (word for command in commands for word in command):
            assert {name for _, name, _, _ in Formatter().parse(word) if name} <= {"bin", "here", "table", "one", "out"}
            if word.endswith(".py"):
                assert Path(word.format(here=HERE)).is_file()
    for module, words in ((finetune, FINETUNE), (finetune, PROGRAMS["ours-1"].train), (predict, PREDICT)):
        parser = argparse.ArgumentParser(exit_on_error=False)
        module.add_arguments(parser)
        assert parser.parse_args(words[2:]) is not None
        assert words[:2] == ("{bin}/moleblend", module.__name__.rpartition(".")[2])


def test_our_start_is_timed_again_and_again(tmp_path):
    """What one start writes is not in the way of the next."""
    (tmp_path / "one.csv").write_text(f"{SMILES}\nCCO\n")
    places = {"out": str(untrained(tmp_path / "model")), "one": str(tmp_path / "one.csv"), "bin": "", "here": ""}
    words = [word.format(**places) for word in PROGRAMS["ours"].start[1:]]
    assert [commands.main(words), commands.main(words)] == [0, 0]


def test_all_learn_the_same_split(table, tmp_path):
    for name in ("one.csv", "two.csv"):
        split_table(table, tmp_path / name)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    with open(tmp_path / "one.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    given = dict(line.rsplit(",", 1) for line in ESOL.strip().splitlines())
    assert {line[SMILES]: line[VALUE] for line in lines} == given, "of what is repeated the first"
    assert len(lines) == len(given) == 24
    assert [sum(line[SPLIT] == part for line in lines) for part in ("train", "valid", "test")] == [20, 2, 2]
    assert {(line[SPLIT], line[CHEMPROP_SPLIT]) for line in lines} == {("train", "train"), ("valid", "val"), ("test", "test")}
    parts = read(tmp_path / "one.csv")
    assert parts["test"] == ([l[SMILES] for l in lines if l[SPLIT] == "test"], [float(l[VALUE]) for l in lines if l[SPLIT] == "test"])
    with gzip.open(tmp_path / "bad.csv.gz", "wt") as stream:
        stream.write(f"{SMILES}\nCCO\nc1cc\nCC\n")
    assert readable(tmp_path / "bad.csv.gz") == ["CCO", "CC"]


def test_predictions_are_put_in_our_order(tmp_path):
    (tmp_path / "table.csv").write_text(f"{SMILES},{VALUE},{SPLIT}\nC,1,test\nCC,2,train\nCCC,3,test\n")
    (tmp_path / "model_0").mkdir()
    for name, column in (("model_0/test_predictions.csv", VALUE), ("predictions_test.csv", f"{VALUE} (predicted)")):
        (tmp_path / name).write_text(f'{SMILES},"{column}"\nCCC,30\nC,10\n')
    (tmp_path / "test.json").write_text("[10, 30]")
    for name, program in PROGRAMS.items():
        if program.scored is not None:
            assert program.scored(tmp_path, tmp_path / "table.csv") == [10, 30], name


def test_answers_are_found_among_what_else_is_printed(tmp_path):
    """A program that says more than asked, gives one number that is none, and ends when it is told nothing more."""
    (tmp_path / "smiles.txt").write_text("C CC CCC")
    script = (
        "import sys; from serving import serve\nprint('loading'); serve(lambda s: print('x', len(s)) or [float('nan'), *map(len, s[1:])])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(HERE)}
    )
    with process:
        assert answer_of(process) == {}
        found = ask(process, json.dumps({"smiles": str(tmp_path / "smiles.txt"), "count": 7}) + "\n")
        assert found["finite"] == 6
        assert found["wall"] > 0
        assert process.stdin is not None
        process.stdin.close()
        with pytest.raises(RuntimeError, match="ended with 0"):
            answer_of(process)


def test_the_processor_time_of_workers_of_a_server_that_goes_on_is_counted(tmp_path):
    """Ours parses many molecules in processes that a fork server starts, which nobody waits for until it ends."""
    (tmp_path / "smiles.txt").write_text("C")
    (tmp_path / "spinning.py").write_text(
        "import subprocess, sys, time\n"
        "SPIN = 'import time; end = time.process_time() + 0.5\\nwhile time.process_time() < end: pass\\nprint(flush=True); input()'\n"
        "START = f'import subprocess, sys; subprocess.run([sys.executable, \"-c\", {SPIN!r}])'\n"
        "def predict(smiles):\n"
        "    server = subprocess.Popen([sys.executable, '-c', START], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "    server.stdout.readline()\n"
        "    predict.kept = server\n"
        "    return [1.0 for _ in smiles]\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", "from serving import serve; from spinning import predict; serve(predict)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{HERE}:{tmp_path}"},
    )
    with process:
        assert answer_of(process) == {}
        found = ask(process, json.dumps({"smiles": str(tmp_path / "smiles.txt"), "count": 1}) + "\n")
        assert process.stdin is not None
        process.stdin.close()
    assert found["cpu"] > 0.45


def test_a_program_is_trained_scored_and_timed_once(table, tmp_path, monkeypatch):
    """The forest, which our own environment has: its rows, and that finished parts are read."""
    monkeypatch.setattr(measurement, "REPEATS", {1: 2})
    found = forest(tmp_path, table)
    rows = {each.metric: each for each in found.learned("forest")}
    (model,) = (tmp_path / "work" / "measured").glob("*/models/forest")
    errors = np.array(json.loads((model / "test.json").read_text())) - read(model.parents[1] / "esol.csv")["test"][1]
    assert rows["ESOL, test RMSE"].p50 == pytest.approx(math.sqrt((errors**2).mean()), rel=1e-3)
    assert {each.unit for each in rows.values()} == {"CPU s", "s", "GiB", "log(mol/l)"}
    assert all(each.case == "ECFP + random forest (scikit-learn 1.9.1), 1 core" for each in rows.values())
    times = {each.metric: each for each in found.predicted(1)}
    assert list(times) == ["1 molecule from SMILES", "1 molecule from SMILES, CPU time", "1 molecule from SMILES, peak memory"]
    assert times["1 molecule from SMILES"].repeats == 2
    (model / "model.joblib").unlink()
    again = Measured(tmp_path / "work", table, table, 1, found.programs)
    assert again.learned("forest") == list(rows.values())
    assert again.predicted(1) == list(times.values())


def test_others_are_compared_with_ours(table, tmp_path):
    found = Measured(tmp_path / "work", table, table, 1, {name: PROGRAMS[name] for name in (OURS, "forest")})
    for name, seconds in ((OURS, 4.0), ("forest", 1.0)):
        found._kept(f"learned-{name}", lambda s=seconds: [row("peers", "x", "ESOL to a score, CPU time", "CPU s", [s])])
    (ratio,) = found.compared()
    assert (ratio.p50, ratio.unit) == (0.25, "x")
    assert ratio.case.startswith("ECFP + random forest")
    assert Measured(tmp_path / "other", table, table, 1, {}).compared() == []


def test_a_program_that_fails_is_shown(table, tmp_path):
    found = forest(tmp_path, table)
    with pytest.raises(SystemExit, match=r"ended with 1(.|\n)*No such file.*nowhere"):
        found._run("forest", ("{bin}/python", "-c", "open('nowhere')"))


def test_the_pages_rows_are_those_of_programs():
    """Every row of peers that is kept is of a program that is still compared so."""
    with open(ROOT / "benchmarks" / "results.csv", newline="") as stream:
        cases = {line["case"].rsplit(", ", 1)[0] for line in csv.DictReader(stream) if line["benchmark"] == "peers"}
    assert cases <= {program.title for program in PROGRAMS.values()}


def test_an_environment_is_made_of_pins_and_is_there_only_when_all_of_it_is(tmp_path, monkeypatch):
    pins = tmp_path / "pins.txt"
    pins.write_text("no-such-package-of-anybody==1\n")
    place = place_of(tmp_path, "some")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        install_pinned(place, pins)
    assert "no-such-package-of-anybody" in caught.value.stderr
    assert (place / "bin" / "python").exists()
    assert not is_installed(place, pins), "it was not finished"
    (place / "installed").write_text(hashlib.sha256(pins.read_bytes()).hexdigest())
    assert is_installed(place, pins)
    install_pinned(place, pins)  # asks pip for nothing: that would fail
    pins.write_text("another==1\n")
    assert not is_installed(place, pins), "pinned otherwise today"
    monkeypatch.setenv("PYTHONPATH", "/of/ours")
    assert "PYTHONPATH" not in environment(2)
    assert environment(2)["OMP_NUM_THREADS"] == "2"
