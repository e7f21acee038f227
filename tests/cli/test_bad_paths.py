"""Every sub-command with places that cannot be written and files that cannot be read: a message and exit code 2, never a traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moleblend_fs.cli.main import COMMANDS, main
from moleblend_fs.objectives.common.prototypes import PROJECTION
from tests.fairseq_plugins.conftest import write_labelled
from tests.inference.untrained_models import pretrained, untrained
from tests.support.sidecars import tokenizer

pytestmark = pytest.mark.cold

COMMAND = str(Path(sys.executable).parent / "moleblend")
RUNS = {
    "predict": ("{model}", "{store}", "{out}"),
    "predict --embeddings": ("{model}", "{store}", "{out}", "--embeddings", "2d"),
    "evaluate": ("{model}", "{store}", "--split", "test", "--json", "{out}"),
    "convert": ("{model}", "{out}"),
    "inspect": ("{store}", "--html", "{out}"),
    "report": ("{runs}", "--output", "{out}"),
    "preprocess": ("csv", "{csv}", "{out}", "--workers", "1", "--no-progress"),
    "merge": ("{out}",),
    "overlap": ("{store}", "{other}", "--json", "{out}"),
    "compare": ("{scores}", "--html", "{out}"),
    "compare --csv": ("{scores}", "--csv", "{out}"),
    "export": ("{model}", "{out}"),
    "embed": ("{model}", "{csv}", "{out}", "--hydrogens", "none", "--no-progress"),
    "embed --split": ("{model}", "{store}", "{out}", "--split", "test", "--no-progress"),
    "explain": ("{model}", "{csv}", "-o", "{out}", "--hydrogens", "none", "--no-progress"),
    "preprocess-sidecar": ("descriptors", "{store}", "--no-progress"),
    "prototypes": ("{projecting}", "{store}", "{out}", "--levels", "2", "1"),
    "tokenize": ("{tokenizer}", "{store}", "--no-progress"),
    "finetune": ("{table}", "{out}", "--target", "y"),
    "tune": ("{table}", "{out}", "--target", "y", "--trials", "1"),
    "check-golden": ("{golden}",),
    "doctor": (),
}
"""Command -> its words; {out} is what it writes, all others are what it reads."""
FOLDERS = ("convert", "preprocess", "merge")
"""Commands whose output is a folder that must not exist yet."""
ENDINGS = {"embed": ".npy", "embed --split": ".npy", "export": ".onnx", "explain": ".html"}
"""What names of outputs must end in."""
BAD_OUTPUTS = {
    "a full device": "/dev/full",
    "a folder": "{tmp}/folder",
    "below a file": "{tmp}/file/x",
    "below a device": "/dev/null/x",
    "where nothing can be made": "/proc/nothing/x",
    "a name that is too long": "{tmp}/" + "x" * 300,
    "a path that is too long": "{tmp}/" + "x/" * 3000,
    "an empty name": "",
    "a link to itself": "{tmp}/loop",
    "a folder that is too long": "{tmp}/" + "x" * 300 + "/x",
}
ODD_OUTPUTS = ("a:b", "a b", "new\nline", "-dash", "%d{}", "\u00e9\u4e2d", os.fsdecode(b"not\xfftext"))
BAD_INPUTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "an empty file": lambda path: path.write_bytes(b""),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "text": lambda path: path.write_text("hello\nworld\n"),
    "JSON": lambda path: path.write_text('{"model": [NaN], "store": 1, "split": 2, "metrics": 3, "predictions": 4}'),
    "an empty folder": lambda path: path.mkdir(),
    "a folder of bad files": lambda path: bad_folder(path),
    "a device": lambda path: path.symlink_to("/dev/null"),
    "a link to itself": lambda path: path.symlink_to(path),
    "below a file": lambda path: path.parent.joinpath("file").touch(),
}


def bad_folder(path: Path) -> None:
    path.mkdir()
    for name in (
        "manifest.json",
        "config.json",
        "model.safetensors",
        "records.lmdb",
        "test.json",
        "train.log",
        "x.jsonl",
        "split_test.npy",
    ):
        (path / name).write_bytes(b'{"store": null, "num_updates": "x"}\n\xff\x00')


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, str]:
    """Inputs that work."""
    folder = tmp_path_factory.mktemp("given")
    molecules = [("C" * (i + 1), ("train", "valid", "test")[i % 3], [float(i)]) for i in range(9)]
    store = write_labelled(folder / "store", molecules, {"y": "regression"})
    model = untrained(folder / "model")
    projecting, coding = pretrained(folder / "projecting", (PROJECTION,)), tokenizer(folder / "tokenizer")
    (folder / "in.csv").write_text("smiles,y\nCCO,1\nCCN,2\n")
    (folder / "runs").mkdir()
    assert main(["evaluate", str(model), str(store.path), "--json", str(folder / "runs" / "test.json")]) == 0
    (folder / "table.csv").write_text("smiles,y\n" + "".join(f"{'C' * (i + 1)}O,{i}.5\n" for i in range(40)))
    other = write_labelled(folder / "other", molecules[:5], {"y": "regression"})
    scores = [f"{m},{f},rmse,{f / 10 + k + f * k}" for k, m in enumerate("ab") for f in range(4)]
    (folder / "scores.csv").write_text("method,fold,metric,value\n" + "\n".join(scores))
    golden = {
        "scores": str(folder / "scores.csv"),
        "table": str(folder / "table.csv"),
        "other": str(other.path),
        "golden": str(folder / "missing.npz"),
        "csv": str(folder / "in.csv"),
        "runs": str(folder / "runs"),
    }
    return {"model": str(model), "projecting": str(projecting), "tokenizer": str(coding), "store": str(store.path), **golden}


def run(command: str, places: dict[str, str]) -> int:
    try:
        return main([command.split()[0], *(word.format(**places) for word in RUNS[command])])
    except SystemExit as end:  # of argparse, for words that it does not take
        return int(end.code or 0)


def test_every_command_is_here():
    assert {name.split()[0] for name in RUNS} == set(COMMANDS) - {"train"}, "train becomes fairseq-train, which has its own tests"


@pytest.mark.parametrize("place", BAD_OUTPUTS)
@pytest.mark.parametrize("command", [name for name, words in RUNS.items() if "{out}" in words])
def test_bad_outputs(given, tmp_path, capsys, command, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "theirs").touch()
    (tmp_path / "file").write_text("the user's")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    assert run(command, given | {"out": BAD_OUTPUTS[place].format(tmp=tmp_path)}) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"moleblend {command.split()[0]}: ")
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()[-1]) > 40, "what is wrong, and where"
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"
    assert (tmp_path / "file").read_text() == "the user's"


@pytest.mark.parametrize("name", ODD_OUTPUTS)
@pytest.mark.parametrize(
    "command", [name for name, words in RUNS.items() if "{out}" in words and name not in ("merge", "finetune", "tune")]
)
def test_odd_names_of_outputs_are_names(given, tmp_path, capsys, command, name):
    name += ENDINGS.get(command, "")
    assert run(command, given | {"out": str(tmp_path / "new" / name)}) == 0
    assert os.listdir(tmp_path / "new") == [name]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name, words in RUNS.items() if "{out}" in words and name != "merge"])
def test_what_is_read_is_not_written_over(given, command):
    """A page took the place of a store's manifest, and of a result of `evaluate`."""
    for role in {word[1:-1] for word in RUNS[command] if word[0] == "{" and word != "{out}"}:
        place = Path(given[role])
        for file in [place] if place.is_file() else [path for path in sorted(place.rglob("*")) if path.is_file()]:
            before = file.read_bytes()
            assert run(command, given | {"out": str(file)}) == 2
            assert file.read_bytes() == before


def test_whole_runs_where_a_part_is_meant_are_told(given, tmp_path, capsys):
    """`moleblend evaluate RUN STORE` said that config.json is missing."""
    run, search = tmp_path / "run", tmp_path / "search"
    for folder in (run, search / "best-trial3"):
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
    (search / "study.journal").touch()
    for words, told in (
        (["evaluate", str(run), given["store"]], f"of which {run / 'members' / 'NAME' / 'checkpoint_best.pt'} is meant"),
        (["inspect", str(run)], f"of which {run / 'store'} is meant"),
        (["predict", str(search), "--smiles", "C"], f"whose model is another one in it: {search / 'best-trial3'}"),
        (["explain", str(search), "C"], f"whose model is another one in it: {search / 'best-trial3'}"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err


def test_text_for_people_stays_out_of_what_goes_to_standard_output(given, capfd):
    assert run("overlap", given | {"out": "/dev/stdout"}) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["overlap"][0]["store"] == given["store"]
    assert "skeleton" in said.err
    assert run("inspect", given | {"out": "/dev/stdout"}) == 0
    said = capfd.readouterr()
    assert (said.out[:15].lower(), said.out.rstrip()[-7:]) == ("<!doctype html>", "</html>")
    assert "bytes per molecule" in said.err


@pytest.mark.parametrize("kind", BAD_INPUTS)
@pytest.mark.parametrize(
    ("command", "role"), [(name, word[1:-1]) for name, words in RUNS.items() for word in words if word[0] == "{" and word != "{out}"]
)
def test_bad_inputs(given, tmp_path, capsys, command, role, kind):
    bad = tmp_path / "bad"
    BAD_INPUTS[kind](bad)
    bad = tmp_path / "file" / "x" if kind == "below a file" else bad
    code = run(command, given | {role: str(bad), "out": str(tmp_path / "out")})
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.startswith(f"moleblend {command.split()[0]}: ")
    assert "Traceback" not in said
    assert not os.path.lexists(tmp_path / "out")


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "{model}", "{store}", "{tmp}/o", "--workers", "-1"],
        ["predict", "{model}", "{store}", "{tmp}/o", "--max-tokens", "0"],
        ["predict", "{model}", "{store}", "{tmp}/o", "--device", "nonsense"],
        ["predict", "{model}", "{store}", "{tmp}/o", "--device", "meta"],
        ["predict", "{model}", "{store}", "{tmp}/o", "--split", "../../etc"],
        ["predict", "{model}", "{store}", "{tmp}/o", "--embeddings", "2d", "--source", "{csv}"],
        ["predict", "{model}", "{store}", "{tmp}/o", "--source", "{csv}"],
        ["evaluate", "{model}", "{store}", "--split", ""],
        ["evaluate", "{model}", "{store}", "--ogb-submission", "{tmp}/o"],
        ["inspect", "{store}", "--molecules", "-1"],
        ["inspect", "{store}", "--seed", "-1"],
        ["report", "{runs}", "--output", "{tmp}/o", "--store", "{store}", "--molecule", "-1"],
        ["report", "{runs}", "--output", "{tmp}/o", "--store", "{store}", "--seed", "-1"],
        ["preprocess", "csv", "{csv}", "{tmp}/o", "--workers", "0"],
        ["preprocess", "csv", "{csv}", "{tmp}/o", "--split-seed", "-1", "--workers", "1", "--no-progress"],
        ["preprocess"],
        ["nonsense"],
        [],
    ],
)
def test_bad_values(given, tmp_path, capsys, words):
    try:
        code = main([word.format(**given, tmp=tmp_path) for word in words])
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr().err
    assert code == 2, said
    assert "Traceback" not in said
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_what_cannot_be_printed_is_told(given, tmp_path, command):
    """The command itself, since what is lost at the end of a process is not seen inside of it."""
    words = [COMMAND, command.split()[0], *(word.format(**given, out=tmp_path / "out") for word in RUNS[command])]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    told = f"moleblend {command}: No space left on device; the disk is full: make room, or choose another place"
    assert done.stderr.splitlines()[-1] == told
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_a_command_quietly(given):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([COMMAND, "inspect", given["store"]], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, ""), "as a shell tells of a program that SIGPIPE ended"


SLOW = pytest.param("train", True, marks=pytest.mark.slow)


@pytest.mark.parametrize(("command", "buffered"), [("", True), ("", False), ("finetune", True), ("preprocess", True), SLOW])
def test_help_on_a_full_disk_and_into_a_pipe_without_a_reader(command, buffered):
    """With and without Python's buffer of standard output, without which argparse drops what goes wrong."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    words = [COMMAND, *([command] if command else []), "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    said = [line for line in done.stderr.splitlines() if "real_accelerator" not in line]
    assert done.returncode == 2, done.stderr
    assert len(said) == 1
    assert "No space left on device" in said[0]
    if command in ("", "train"):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
        os.close(write)
        assert done.returncode == 141
        assert "Traceback" not in done.stderr
        assert "Broken" not in done.stderr


@pytest.mark.parametrize("command", ["predict", "predict --embeddings", "evaluate", "convert", "inspect", "report"])
def test_a_full_disk(given, tmp_path, capsys, command):
    """A file system of 4 kB: the old file stays, and nothing else."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        (disk / "filler").write_bytes(b"x" * 4096)
        out = disk / "out"
        if command not in FOLDERS:
            out.touch()
        assert run(command, given | {"out": str(out)}) == 2
        assert "the disk is full" in capsys.readouterr().err
        begun = ["out.partial"] if command == "predict" else []  # which the same command goes on from when there is room
        assert sorted(os.listdir(disk)) == ["filler", *([] if command in FOLDERS else ["out"]), *begun]
        if begun:
            subprocess.run(["mount", "-o", "remount,size=64k", str(disk)], check=True)
            (disk / "filler").unlink()
            assert run(command, given | {"out": str(out)}) == 0
            assert os.listdir(disk) == ["out"]
            assert out.stat().st_size
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nothing_and_no_files(tmp_path, closed):
    """Messages for standard error went to standard output, and the first file that was opened had the place of what was closed."""
    script = """
import sys
from moleblend_fs.cli.standard_output import none_closed
none_closed()
with open(sys.argv[1], "w") as file:
    print("an error", file=sys.stderr)
    print("a row")
    file.write(f"{file.fileno() > 2}")
"""
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", script, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    assert (tmp_path / "out").read_text() == "True"
    assert done.stdout == ("" if ">&- 2" in closed else "a row\n")
    assert done.stderr == ""
