"""Nothing that a user gives the shell scripts is ever run: words arrive letter by letter, or a message says what is wrong with them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "scripts" / "slurm"
SHELL_FILES = sorted(
    path
    for folder in ("scripts", "examples", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".sh", ".sbatch") or path == ROOT / ".ci" / "run"
)
RECORD = """() { printf '%s\\0' "$@" >"$(mktemp "$RECORD.XXXXXXXX")"; }"""
RECORD_TRAINING = """() { [ "$1" != train ] || printf '%s\\0' "${@:2}" >"$(mktemp "$RECORD.XXXXXXXX")"; }"""
"""Each call has a file of its own: examples make two at a time."""
HOSTILE = [
    "$(touch marker)",
    "`touch marker`",
    ";touch marker;",
    "&touch marker&",
    "|touch marker",
    ">marker",
    "${HOME}",
    "a[$(touch marker)]",
    "*",
    "~",
    "!!",
    "two  blanks",
    "it's",
    'a "quoted" word',
    "back\\slash",
    "{a,b}",
    "-n",
    "--",
    "",
    "%h%a",
    "Größe\u00a0µ",
]
"""Words that mean something to a shell, to ssh or to sbatch. `marker` is the file that exists where one of them was run."""


def environment(**settings: str) -> dict[str, str]:
    """This interpreter's commands, and nothing of a Slurm job around the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "VENV": str(Path(sys.executable).parents[1])} | settings


def call(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, cwd=folder, env=environment(**settings), capture_output=True, text=True, timeout=120, check=False)
    assert not list(folder.rglob("marker")), "something was run that should have been text"
    return done


def quoted(word: str) -> str:
    """As one word of a TRIALS line."""
    return shlex.quote(word)


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_script_evaluates_text(path):
    """Neither eval nor a shell that is handed a text with a variable in it."""
    for line in path.read_text().splitlines():
        code = line.split("# ")[0]
        assert not re.search(r"(^|[\s;&|(])eval\s", code), line
        assert not re.search(r'\b(?:ba)?sh -c "', code), line


def planned(folder: Path, trials: str, **settings: str) -> list[list[str]]:
    """The words of each task that finetune_array.sbatch would run."""
    (folder / "trials.txt").write_text(trials)
    about = {"DATASETS": "esol", "SEEDS": "0", "TRIALS": "trials.txt", "PRETRAINED": "none", "OUT": str(folder / "out")} | settings
    done = call(folder, str(SLURM / "finetune_array.sbatch"), "--dry-run", **about)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line)[1:] for line in re.findall(r"^\d+: .*$", done.stdout, re.MULTILINE)]


@pytest.mark.parametrize("quote", [quoted, lambda word: '"' + word.replace('"', '"\'"\'"') + '"'], ids=["single", "double"])
def test_words_of_a_trial_arrive_as_written(tmp_path, quote):
    lines = "".join(f"LR={quote(word)} --tensorboard-logdir {quote(word)} {quote(word)}\r\n" for word in HOSTILE)
    tasks = planned(tmp_path, lines)
    assert [task[-3:] for task in tasks] == [["--tensorboard-logdir", word, word] for word in HOSTILE]
    assert [[word for word in task if word.startswith("LR=")] for task in tasks] == [[f"LR={word}"] for word in HOSTILE]


def test_words_of_a_trial_without_quotation_marks(tmp_path):
    (tmp_path / "afile").touch()
    plain = [word for word in HOSTILE if word and not set(word) & set(" '\"\\\u00a0")]
    more = "--lr $(touch marker; echo 1e-4)\n--one\\ word  '#no comment'"
    tasks = planned(tmp_path, "".join(f"--user {word}\n" for word in plain) + more)
    assert [task[-2:] for task in tasks[:-2]] == [["--user", word] for word in plain]
    assert tasks[-2][-5:] == ["--lr", "$(touch", "marker;", "echo", "1e-4)"]
    assert tasks[-1][-2:] == ["--one word", "#no comment"]


def test_the_shared_case(shared, tmp_path):
    text = (shared / "cases" / "attack" / "trials_exec.txt").read_text()
    assert planned(tmp_path, text)[0][-len(text.split()) :] == text.split()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lr 'open", "a quotation mark without the other one: --lr 'open"),
        ('--lr "open', "a quotation mark without the other one"),
        ("--lr 1 \\", "must not end with a backslash"),
        ("EPOCH=3 --lr 1", 'not with "EPOCH=3"'),
        ("PATH=/tmp --lr 1", 'not with "PATH=/tmp"'),
        ("LD_PRELOAD=x.so", 'not with "LD_PRELOAD=x.so"'),
        ("'ARCH BATCH=3'", 'not with "ARCH BATCH=3"'),
        ("tiny", 'not with "tiny"'),
    ],
)
def test_lines_that_are_no_trial_are_refused(tmp_path, line, message):
    (tmp_path / "trials.txt").write_text(f"--lr 1\n{line}\n")
    done = call(tmp_path, str(SLURM / "finetune_array.sbatch"), "--dry-run", TRIALS="trials.txt", PRETRAINED="none")
    assert done.returncode == 2
    assert message in done.stderr
    assert "TRIALS=trials.txt" in done.stderr


def test_data_sets_seeds_and_options_of_sbatch_are_no_patterns(tmp_path):
    (tmp_path / "a file").touch()
    about = {"DATASETS": "* $(touch marker)", "SEEDS": "?\n[a-z]*", "SBATCH_OPTIONS": "--x=* $(touch marker)", "PRETRAINED": "none"}
    done = call(tmp_path, str(SLURM / "finetune_array.sbatch"), "--dry-run", OUT="100%a of it", **about)
    assert done.returncode == 0, done.stderr
    sbatch, tasks = (
        [shlex.split(line) for line in done.stdout.splitlines() if re.match(start, line)] for start in ("MOLEBLEND_STEP", r"\d+: ")
    )
    assert f"--output={tmp_path}/100%%a of it/tasks/%a.out" in sbatch[1]
    assert all(line[5:] and {"--x=*", "$(touch", "marker)"} <= set(line) for line in sbatch)
    assert [task[-1] for task in tasks] == [word for word in ("*", "$(touch", "marker)") for _ in range(2)]
    assert {word for task in tasks for word in task if word.startswith("SEED=")} == {"SEED=?", "SEED=[a-z]*"}


@pytest.fixture
def store_file(tmp_path) -> Path:
    """All that the example for MoleculeNet reads of a store: the size of its training split."""
    (tmp_path / "stores" / "esol_c0").mkdir(parents=True)
    (tmp_path / "stores" / "esol_c0" / "manifest.json").write_text('{"splits": {"train": {"molecules": 90}}}')
    return tmp_path / "stores"


def recorded(folder: Path) -> list[list[str]]:
    return [path.read_text().split("\0")[:-1] for path in folder.glob("recorded.*")]


def recording(folder: Path) -> dict[str, str]:
    """Settings with which a script's calls of `moleblend train` are written down; `moleblend` does nothing."""
    return {"BASH_FUNC_moleblend%%": RECORD_TRAINING, "RECORD": str(folder / "recorded")}


@pytest.mark.parametrize("word", ["$(touch marker)", "a[$(touch marker)]", "it's", "-x *", 'a "b'])
def test_a_task_of_the_array_hands_its_words_to_training(store_file, word, tmp_path):
    """The job itself, as Slurm runs it: a copy named slurm_script."""
    job = tmp_path / "slurm_script"
    shutil.copy(SLURM / "finetune_array.sbatch", job)
    out = tmp_path / f"out {word}"
    (out / "tasks").mkdir(parents=True)
    (tmp_path / "trials.txt").write_text(f"LR={quoted(word)} --tensorboard-logdir {quoted(word)}\n")
    where = {"OUT": str(out), "STORES": str(store_file), "TRIALS": "trials.txt", "DATASETS": "esol", "SEEDS": "7", "PRETRAINED": "none"}
    slurm = {"MOLEBLEND_STEP": "tasks", "MOLEBLEND_ROOT": str(ROOT), "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "1"}
    done = call(tmp_path, "bash", str(job), **where, **slurm, **recording(tmp_path))
    assert done.returncode == 0, done.stderr
    (words,) = recorded(tmp_path)
    run = str(out / "trial0" / "esol_2d" / "seed7_scratch")
    assert words[words.index("--lr") + 1] == word
    assert words[words.index("--tensorboard-logdir", words.index("--lr")) + 1] == word
    assert words[words.index("--save-dir") + 1] == run
    assert (out / "tasks" / "0.state").read_text().startswith(f"finished {run} on ")


@pytest.mark.parametrize(
    ("example", "setting"),
    [
        ("finetune_moleculenet", "EPOCHS"),
        ("finetune_moleculenet", "BATCH"),
        ("finetune_qm9", "UPDATES"),
        ("pcqm4mv2_gap", "UPDATES"),
        ("pretrain_pcqm4mv2", "GPUS"),
        ("pretrain_pcqm4mv2", "BATCH"),
        ("pretrain_pcqm4mv2", "GLOBAL_BATCH"),
        ("quickstart", "PRETRAIN_UPDATES"),
        ("quickstart", "FINETUNE_UPDATES"),
    ],
)
@pytest.mark.parametrize("value", ["x[$(touch marker)]", "0", "-1", "1e3", "08", "2 3", "HOME"])
def test_numbers_are_numbers(example, setting, value, store_file, tmp_path):
    """bash's arithmetic would run what stands in an index."""
    words = ["esol"] if example == "finetune_moleculenet" else []
    about = {"STORE": str(store_file / "esol_c0"), "PRETRAINED": "none", "OUT": str(tmp_path / "out"), "GPUS": "1", setting: value}
    done = call(tmp_path, str(ROOT / "examples" / example / "run.sh"), *words, **about, **recording(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f'{setting} must be a whole number over 0, got "{value}"' in done.stderr
    assert recorded(tmp_path) == []


@pytest.mark.parametrize("word", ["-out", "a b", "$(touch marker)", "*", "it's", "line\nbreak", 'a"b', "x;touch marker"])
@pytest.mark.parametrize("example", ["finetune_moleculenet", "quickstart"])
def test_paths_of_an_example_are_meant_from_the_callers_folder(example, word, tmp_path):
    """Whatever they are called. `preprocess` writes nothing here, so that the stores are laid down before."""
    folder = tmp_path / word
    store = folder / ("qm9" if example == "quickstart" else "store")
    store.mkdir(parents=True)
    (store / "manifest.json").write_text('{"splits": {"train": {"molecules": 90}}}')
    (folder / "esol.csv").touch()
    about = {"OUT": word, "DATA": word, "STORE": f"{word}/store", "PRETRAINED": f"{word}/weights.pt", "SEEDS": "0", "SCRATCH": "0"}
    words = ["esol"] if example == "finetune_moleculenet" else []
    done = call(tmp_path, str(ROOT / "examples" / example / "run.sh"), *words, **about, **recording(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    calls = recorded(tmp_path)
    assert len(calls) == (5 if example == "quickstart" else 1)
    for call_ in calls:
        run = tmp_path / call_[call_.index("--save-dir") + 1]
        assert folder in run.resolve().parents
        assert (run / "finished").is_file()
        assert (tmp_path / call_[0]).resolve() == store
        if "--finetune-from-model" in call_:
            assert (tmp_path / call_[call_.index("--finetune-from-model") + 1]).resolve().parent.is_relative_to(folder)


def test_data_are_looked_for_in_the_callers_folder(tmp_path):
    """Once they are there, the file is what `moleblend preprocess` is given."""
    run = str(ROOT / "examples" / "finetune_moleculenet" / "run.sh")
    done = call(tmp_path, run, "esol", DATA="my data", ONLY="store")
    assert done.returncode == 2
    assert "no my data/esol.csv or my data/esol.csv.gz" in done.stderr
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "esol.csv.gz").touch()
    settings = {"DATA": "my data", "ONLY": "store", "CONFORMERS": "1 *"}
    done = call(tmp_path, run, "esol", **recording(tmp_path) | {"BASH_FUNC_moleblend%%": RECORD} | settings)
    assert done.returncode == 0, done.stderr
    expected = ["preprocess", "moleculenet", "my data/esol.csv.gz", "runs/data/esol_c1 *", "--name", "esol", "--conformers", "1 *"]
    assert recorded(tmp_path) == [expected]


@pytest.mark.parametrize("host", ["-oProxyCommand=touch${IFS}marker", "a;touch${IFS}marker", "$(touch${IFS}marker)", "a`touch`", "-"])
def test_hosts_are_names(host, tmp_path):
    (tmp_path / "hosts").write_text(f"{host} slots=1\nb slots=1\n")
    about = {"LAUNCHER": "deepspeed", "NODES": "2", "MASTER": "b", "HOSTFILE": "hosts"}
    done = call(tmp_path, str(ROOT / "scripts" / "launch.sh"), "--dry-run", "store", **about)
    assert done.returncode == 2
    assert "is no name of a host" in done.stderr


def test_deepspeed_is_not_started_from_a_folder_whose_name_it_would_run(tmp_path):
    folder = tmp_path / "x $(touch marker)"
    folder.mkdir()
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\n")
    about = {"LAUNCHER": "deepspeed", "NODES": "2", "MASTER": "a", "HOSTFILE": str(tmp_path / "hosts")}
    done = call(folder, str(ROOT / "scripts" / "launch.sh"), "--dry-run", "store", **about)
    assert done.returncode == 2
    assert "deepspeed does not quote this folder's name" in done.stderr


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed", "srun"])
def test_launch_hands_on_its_words(launcher, tmp_path):
    done = call(tmp_path, str(ROOT / "scripts" / "launch.sh"), "--dry-run", "store", *HOSTILE, LAUNCHER=launcher, PROCS="1")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[words.index("store") + 1 :] == [*HOSTILE, "--user-dir", str(ROOT / "moleblend_fs")]
    done = call(tmp_path, str(ROOT / "scripts" / "launch.sh"), "--dry-run", "store", "--user-dir=mine", "x --user-dir y", LAUNCHER=launcher)
    assert shlex.split(done.stdout)[-2:] == ["--user-dir=mine", "x --user-dir y"]
