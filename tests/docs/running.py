"""Running a page's commands in a folder, or handing their words to the parsers that would read them."""

import argparse
import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from moleblend_fs.cli.main import COMMANDS, main
from moleblend_fs.cli.train import with_user_dir
from tests.docs.blocks import ROOT
from tests.fairseq_plugins.runs import run_here

BIN = Path(sys.executable).parent
SHELL = set("*?$`;&|<>()~\"'") | {"="}
"""A command with one of these is bash's to read."""
RECORDED = ("fairseq-train", "moleblend", "pip", "sbatch")


class Parsed(Exception):
    """Raised where a parser has read all of its words, instead of beginning the work."""


@contextlib.contextmanager
def as_command(words: list[str]) -> Iterator[None]:
    argv = sys.argv
    sys.argv = list(words)
    try:
        yield
    finally:
        sys.argv = argv


def bash(command: str, folder: Path, **settings: str) -> str:
    """A command as a reader's shell runs it; what it printed. AssertionError unless its exit code is 0."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    about = {"PATH": f"{BIN}:{os.environ['PATH']}", "VENV": str(BIN.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=kept | about | settings, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def really(command: str, folder: Path) -> None:
    """Run a command in a folder; our own in this process, where that is the same but for its start."""
    words = shlex.split(command)
    if set(command) & SHELL or words[0] != "moleblend":
        bash(command, folder)
    elif words[1] == "train":
        with contextlib.chdir(folder):
            run = run_here(with_user_dir(words[2:]), folder)
        assert run.code == 0, f"{command}\n{run.output[-3000:]}"
    else:
        with contextlib.chdir(folder):
            assert main(words[1:]) == 0, command


def check(command: str, folder: Path) -> int:
    """Find out what a command would start, and hand the words of that to the real parsers; how many there were.

    Raises:
        AssertionError: a setting, script, option or file that is not there.
    """
    words = shlex.split(command)
    settings = [word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
    script = next((word for word in words if word.startswith("./")), None)
    if script is None:
        read = "".join(file.read_text() for file in (ROOT / "moleblend_fs").rglob("*.py")) if settings else ""
        assert all(f'"{name}"' in read for name in settings), f"{command}: variables that nothing of ours reads"
        parse(words[len(settings) :], folder)
        return 1
    check_settings(settings, script)
    if script == "./scripts/test.sh":
        named = [word for word in words if word.startswith("tests/")]
        assert all((ROOT / word).exists() for word in named), command
        return 1
    if script.startswith("./scripts/"):
        printed = bash(command.replace(script, f"{script} --dry-run"), folder)
        started = [shlex.split(line) for line in printed.splitlines()]
    else:
        started = record(command, folder)
    ours = [line[i:] for line in started for i in range(len(line)) if begins_ours(line[i : i + 2])]
    for line in ours:
        parse([Path(line[0]).name, *(word.replace("$SLURM_ARRAY_TASK_ID", "0") for word in line[1:])], folder)
    for line in started:
        for word in line:
            if word.endswith("/run.sh"):  # a task of an array: an example with its settings
                check_settings([w.partition("=")[0] for w in line if re.match(r"(ARCH|BATCH|EPOCHS|LR|UPDATES|WARMUP|WORKERS)=", w)], word)
                assert os.access(word, os.X_OK)
    assert started, command
    return len(started)


def begins_ours(words: list[str]) -> bool:
    """Whether these words begin a command of fairseq's training or ours."""
    name = Path(words[0]).name
    return name == "fairseq-train" or (name == "moleblend" and words[-1] in COMMANDS)


def check_settings(settings: list[str], script: str) -> None:
    """Every setting is one that the script, or what it sources, reads."""
    path = ROOT / script
    assert os.access(path, os.X_OK), script
    near = [path, *path.parent.glob("_*.sh"), ROOT / "examples" / "common.sh"]
    if "finetune_array" in script:  # which hands on the settings of these
        near += (ROOT / "examples").glob("finetune_*/run.sh")
    text = "\n".join(file.read_text() for file in near)
    for name in settings:
        assert re.search(rf"\$\{{?{name}\b", text), f"{script} knows no setting {name}"


def record(command: str, folder: Path) -> list[list[str]]:
    """The words of fairseq-train and of our own commands that an example would start; none of them is.

    Each call has a file of its own: an example starts several at once, and what they write into one file mixes.
    """
    calls = Path(tempfile.mkdtemp(prefix="recorded", dir=folder))
    functions = {f"BASH_FUNC_{name}%%": f'() {{ printf \'%s\\0\' {name} "$@" >"$(mktemp "$CALLS/XXXXXXXX")"; }}' for name in RECORDED}
    bash(command, folder, CALLS=str(calls), **functions)
    return [file.read_text().split("\0")[:-1] for file in sorted(calls.iterdir())]


def parse(words: list[str], folder: Path) -> None:
    """Hand words to the parser of the command that they call."""
    name, *rest = words
    if name == "fairseq-train" or words[:2] == ["moleblend", "train"]:
        parse_training(with_user_dir(rest if name == "fairseq-train" else rest[1:]))
    elif name == "moleblend":
        parse_module("moleblend_fs.cli.main", rest)
    elif words[:2] == ["python", "-m"]:
        module, *options = rest[1:]
        if module == "benchmarks.timing":
            parse_training(with_user_dir(options[1:]))
        else:
            parse_module("benchmarks.__main__" if module == "benchmarks" else module, options)
    elif name == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(rest)
        assert importlib.util.find_spec(given.training_script) is not None
    elif words[:2] == ["pip", "install"]:
        (ROOT / words[words.index("-c") + 1]).resolve(strict=True)
        extras = re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)
        assert set(re.search(r"\[(.*)\]", words[-1]).group(1).split(",")) <= set(extras)
    else:
        raise AssertionError(f"no parser is known for: {shlex.join(words)}")


def parse_training(words: list[str]) -> None:
    """fairseq-train's parser, with all that task, criterion, model, optimizer and scheduler add to it."""
    from fairseq import options

    import fairseq_plugins  # noqa: F401

    with as_command(["fairseq-train", *words]):
        options.parse_args_and_arch(options.get_training_parser(), input_args=words)


def parse_module(name: str, words: list[str]) -> None:
    """The parser of a module with a `main` that reads sys.argv."""
    original = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *args: object) -> None:
        original(self, *args)
        raise Parsed

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_only), as_command([name, *words]), contextlib.suppress(Parsed):
        module = importlib.import_module(name)
        (module.run(words) if name == "moleblend_fs.cli.main" else module.main())
        raise AssertionError(f"{name} has read no options")
