"""Launching: what the scripts would run, what they refuse, the table of results; runs of two processes with either launcher."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.training import UPDATES, alone, check_stop, losses_in, words
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "scripts" / "slurm"
LAUNCH = ROOT / "scripts" / "launch.sh"


def clean(**settings):
    """This environment without traces of a distributed start, with this interpreter's commands, no GPUs, and settings."""
    hidden = ("SLURM_", "SBATCH_", "CUDA_VISIBLE", "OMP_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    venv = str(Path(sys.executable).parents[1])
    return environment | {"VENV": venv, "CUDA_VISIBLE_DEVICES": ""} | {name: str(value) for name, value in settings.items()}


def call(script, *words, cwd=ROOT, **settings):
    return subprocess.run([script, *words], env=clean(**settings), cwd=cwd, capture_output=True, text=True, timeout=300)


def planned(*words, cwd=ROOT, **settings):
    """The words of the command that launch.sh would run, settings first."""
    done = call(LAUNCH, "--dry-run", *words, cwd=cwd, **settings)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def follow(words, *expected):
    """Whether words stand in the command, one after the other."""
    return any(tuple(words[i : i + len(expected)]) == expected for i in range(len(words)))


@pytest.mark.parametrize("script", [LAUNCH, *sorted(SLURM.glob("*.sbatch")), SLURM / "collect.sh"], ids=lambda path: path.name)
def test_help(script):
    done = call(script, "--help")
    assert done.returncode == 0, done.stderr
    assert script.name in done.stdout
    assert "set -e" not in done.stdout
    assert os.access(script, os.X_OK)
    if script.suffix == ".sbatch":
        assert "PARTITION" in done.stdout


def test_one_host():
    words = planned("a store", "--lr", "1", CUDA_VISIBLE_DEVICES="0,1,2")
    assert follow(words, "torchrun", "--nproc-per-node", "3")
    assert follow(words, "--standalone", "--no-python", "moleblend", "train", "a store", "--lr", "1", "--user-dir", f"{ROOT}/moleblend_fs")
    # Without this setting SIGUSR1 would end torchrun and leave its processes behind.
    assert any(word.startswith("PET_SIGNALS_TO_HANDLE=") and "SIGUSR1" in word for word in words)
    assert follow(planned("s", PROCS=5), "--nproc-per-node", "5")
    assert follow(planned("s"), "--nproc-per-node", "1")
    assert planned("s", "--user-dir", "mine").count("--user-dir") == 1


def test_several_hosts():
    words = planned("s", NODES="2", MASTER="host1", RESTARTS="3", LOCAL_ADDR="10.0.0.2", JOB="7")
    assert follow(words, "--max-restarts", "3")
    assert follow(words, "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "7", "--rdzv-endpoint", "host1:29500")
    assert follow(words, "--local-addr", "10.0.0.2")
    assert "--standalone" not in words
    assert follow(planned("s", NODES="2:4", MASTER="h:1"), "--nnodes", "2:4")


def test_deepspeed_launcher(tmp_path):
    words = planned("s", LAUNCHER="deepspeed", PROCS=2)
    assert Path(words[words.index("--num_gpus") - 1]).name == "deepspeed"
    assert follow(words, "--num_gpus", "2")
    assert follow(words, "--no_python", "--no_local_rank", "moleblend", "train", "s")
    assert "DS_ACCELERATOR=cpu" in words
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=2\nb slots=2\n")
    words = planned("s", LAUNCHER="deepspeed", NODES=2, MASTER="a:1234", HOSTFILE=hostfile, NODE_RANK=1, CUDA_VISIBLE_DEVICES="0,1")
    assert follow(words, "--master_port", "1234", "--hostfile", str(hostfile), "--num_nodes", "2", "--master_addr", "a", "--no_ssh")
    assert not any(word.startswith("DS_ACCELERATOR") for word in words)
    # Started once, it reaches all hosts: words are quoted for the shell there, and for deepspeed, which quotes those with blanks only.
    hosts = {"NODES": 2, "MASTER": "a", "HOSTFILE": hostfile}
    words = planned("s", "(1,2)", "(1, $2)", "%h", cwd=tmp_path, LAUNCHER="deepspeed", MOLEBLEND_X="y", **hosts)
    assert follow(words, "--no_ssh_check", "--no_python", "--no_local_rank", "env")
    assert {"DS_ACCELERATOR=cpu", "OMP_NUM_THREADS=1", "MOLEBLEND_X=y"} <= set(words)
    assert follow(words, f"{Path(sys.executable).parent}/moleblend", "train", "s", r"\(1\,2\)", r"(1, \$2)", "%%h", "--user-dir")


def test_deepspeed_in_an_environment_whose_path_has_a_blank(tmp_path):
    """The first line of deepspeed's script then names no interpreter that the system finds."""
    commands = tmp_path / "an environment" / "bin"
    commands.mkdir(parents=True)
    (commands / "python").symlink_to(sys.executable)
    (commands / "deepspeed").write_text(f"#!{commands}/python\nimport sys\nprint(sys.argv[1:])\n")
    (commands / "deepspeed").chmod(0o755)
    done = call(LAUNCH, "s", cwd=tmp_path, LAUNCHER="deepspeed", PROCS=2, VENV=commands.parent)
    assert done.returncode == 0, done.stderr
    assert "['--num_gpus', '2', '--master_port', '29500', '--no_python', '--no_local_rank', 'moleblend', 'train', 's'" in done.stdout


def test_rank_of_a_slurm_step():
    assert follow(planned("s", LAUNCHER="srun", SLURM_CPUS_PER_TASK="6"), "OMP_NUM_THREADS=6", "moleblend", "train", "s")


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({}, [], "no store given"),
        ({}, ["--lr", "1"], "the store comes first"),
        ({"NODES": "two"}, ["s"], "NODES must be"),
        ({"NODES": "2"}, ["s"], "needs MASTER"),
        ({"PROCS": "-1"}, ["s"], "PROCS must be"),
        ({"LAUNCHER": "mpirun"}, ["s"], "LAUNCHER must be"),
        ({"LAUNCHER": "deepspeed", "NODES": "2", "MASTER": "h"}, ["s"], "needs HOSTFILE"),
        ({"LAUNCHER": "deepspeed", "NODES": "2", "MASTER": "h", "HOSTFILE": "/etc/hostname"}, ["s"], "has 0 lines"),
        ({"LAUNCHER": "deepspeed", "NODES": "1:2", "MASTER": "h"}, ["s"], "only torchrun takes MIN:MAX"),
        ({"LAUNCHER": "srun"}, ["s"], "processes that srun started"),
    ],
)
def test_mistakes_are_explained(settings, words, message):
    done = call(LAUNCH, *words, **settings)
    assert done.returncode == 2
    assert message in done.stderr


def test_deepspeed_without_pdsh(tmp_path):
    """All commands of this machine but pdsh."""
    for folder in ("/bin", "/usr/bin"):
        for path in Path(folder).iterdir():
            link = tmp_path / path.name
            if path.name != "pdsh" and not link.exists():
                link.symlink_to(path)
    for name in ("deepspeed", "ssh"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to("/bin/true")
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\n")
    settings = {"LAUNCHER": "deepspeed", "NODES": 2, "MASTER": "a", "HOSTFILE": tmp_path / "hosts", "PATH": tmp_path, "VENV": "none"}
    done = call(LAUNCH, "s", cwd=tmp_path, **settings)
    assert done.returncode == 2
    assert "needs the command pdsh, which is not installed here" in done.stderr


def submissions(script, *words, **settings):
    """Step -> words of the sbatch command; and the other lines."""
    done = call(SLURM / script, "--dry-run", *words, **settings)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    return {line[0].removeprefix("MOLEBLEND_STEP="): line for line in lines if line[1:2] == ["sbatch"]}, [
        line for line in lines if line[1] != "sbatch"
    ]


def test_pretraining_job():
    where = {"PARTITION": "gpu", "ACCOUNT": "chem", "TIME": "1:00:00", "MEM": "100G", "SBATCH_OPTIONS": "--exclusive --nice=5"}
    jobs, (work,) = submissions("pretrain.sbatch", "--fp16-init-scale", "4", NODES=4, GPUS=8, ZERO=2, CPUS=12, WARN=600, **where)
    for option in ("--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=USR1@600", "--partition=gpu", "--account=chem"):
        assert option in jobs["pretrain"]
    for option in ("--time=1:00:00", "--cpus-per-task=12", "--mem=100G", "--exclusive", "--nice=5"):
        assert option in jobs["pretrain"]
    assert jobs["pretrain"][-2:] == ["--fp16-init-scale", "4"]
    assert follow(work, "LAUNCHER=srun", "srun", "--kill-on-bad-exit=0", "--wait=120", str(LAUNCH))
    assert follow(work, "--optimizer", "deepspeed", "--zero-stage", "2")
    assert "--bf16" in work
    jobs, (work,) = submissions("pretrain.sbatch", GPUS=0, PROCS=3, PRECISION="fp32")
    assert "--ntasks-per-node=3" in jobs["pretrain"]
    assert not any(word.startswith("--gpus") for word in jobs["pretrain"])
    assert follow(work, "--optimizer", "adam")
    assert "--bf16" not in work
    assert call(SLURM / "pretrain.sbatch", "--dry-run", ZERO=4).returncode == 2


def test_preprocessing_array(tmp_path):
    out = tmp_path / "store"
    jobs, (shard, merge) = submissions("preprocess_array.sbatch", "qm9", "in", str(out), "--limit", "9", SHARDS=5, PARALLEL=2, CPUS=3)
    assert "--array=0-4%2" in jobs["shards"]
    assert {"--dependency=afterok:SHARDS_JOB", "--kill-on-invalid-dep=yes", "--cpus-per-task=1"} <= set(jobs["merge"])
    assert shard[:5] == ["moleblend", "preprocess", "qm9", "in", str(out)]
    assert follow(shard, "--limit", "9", "--shard", "$SLURM_ARRAY_TASK_ID/5", "--workers", "3")
    assert merge == ["moleblend", "merge", str(out)]
    assert list(tmp_path.iterdir()) == []


def test_finetuning_array(tmp_path):
    trials = tmp_path / "trials"
    trials.write_text("# comment\nEPOCHS=80 --lr 3e-5\n\n--adam-betas '(0.9, 0.98)'\n")
    settings = {"DATASETS": "bbbp qm9:gap", "SEEDS": "3 4", "TRIALS": trials, "OUT": tmp_path / "o", "GPUS": 2}
    jobs, tasks = submissions("finetune_array.sbatch", **settings)
    assert {"--array=0-7%32", "--gpus=2", "--signal=B:USR1@120", "--dependency=afterok:STORES_JOB"} <= set(jobs["tasks"])
    assert "--dependency=afterany:TASKS_JOB" in jobs["collect"]
    assert not any(word.startswith("--gpu") for word in (*jobs["stores"], *jobs["collect"]))
    assert [task[0] for task in tasks] == [f"{n}:" for n in range(8)]
    assert {"SEEDS=3", "SCRATCH=0", "EPOCHS=80", f"OUT={tmp_path}/o/trial0"} <= set(tasks[0])
    assert follow(tasks[0], f"{ROOT}/examples/finetune_moleculenet/run.sh", "bbbp", "--lr", "3e-5")
    assert {"SEED=4", "TARGET=gap", f"OUT={tmp_path}/o/trial1/seed4"} <= set(tasks[7])
    assert follow(tasks[7], f"{ROOT}/examples/finetune_qm9/run.sh", "--adam-betas", "(0.9, 0.98)")
    assert not (tmp_path / "o").exists()
    assert "SCRATCH=1" in submissions("finetune_array.sbatch", PRETRAINED="none")[1][0]
    assert "no such file" in call(SLURM / "finetune_array.sbatch", "--dry-run", TRIALS=tmp_path / "t").stderr


def evaluation(path, value, kind="regression", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    metric = {"rmse": value, "mae": value / 2} if kind == "regression" else {"roc_auc": value}
    path.write_text(json.dumps({"kind": kind, "units": {"y": "eV"}, "metrics": {"y": metric}} | more))


def test_table_of_results(tmp_path):
    """The trial is chosen by validation, where the other one is better on the test split."""
    rows = [(n, "esol", n // 2, n % 2) for n in range(4)] + [(4, "bbbp", 0, 0), (5, "bbbp", 0, 1), (6, "bbbp", 1, 0)]
    text = "".join(f"{n}\t{dataset}\t{trial}\t{seed}\t--lr {trial}\n" for n, dataset, trial, seed in rows)
    (tmp_path / "tasks.tsv").write_text("task\tdataset\ttrial\tseed\toptions\n" + text)
    states = tmp_path / "tasks"
    states.mkdir()
    for n, valid, test in ((0, 1.0, 9.0), (1, 2.0, 7.0), (2, 2.5, 1.0), (3, 1.5, 1.0)):
        (states / f"{n}.state").write_text(f"finished {tmp_path}/run {n} on h on host, job 1_{n}\n")
        for split, value in (("valid", valid), ("test", test)):
            evaluation(tmp_path / f"run {n} on h" / f"{split}.json", value)
    (states / "4.state").write_text("failed with exit code 3 on host, job 1_4\n")
    (states / "4.out").write_text("line\n" * 9 + "the reason\n")
    (states / "5.state").write_text("running on host, job 1_5\n")
    done = call(SLURM / "collect.sh", str(tmp_path))
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["esol", "0", "2", "rmse", "eV", "1.5000", "±", "0.7071", "8.0000", "±", "1.4142", "*", "--lr", "0"]
    assert lines[2].split() == ["esol", "1", "2", "rmse", "eV", "2.0000", "±", "0.7071", "1.0000", "±", "0.0000", "--lr", "1"]
    assert "4 of 7 tasks finished" in done.stdout
    assert "task 4 (bbbp, trial 0, seed 0): failed with exit code 3" in done.stdout
    assert "    the reason" in lines
    assert "task 5 (bbbp, trial 0, seed 1): running on host, job 1_5, and did not end" in done.stdout
    assert "task 6 (bbbp, trial 1, seed 0): never began" in done.stdout
    assert "ARRAY=4,5,6" in done.stdout
    assert (tmp_path / "results.csv").read_text().splitlines()[1].endswith("finished,rmse,eV,1.0,9.0")
    assert call(SLURM / "collect.sh", str(states)).returncode == 2


def tools(folder, **scripts):
    """An environment whose commands are the given shell scripts; launch.sh takes its launchers from there."""
    (folder / "bin").mkdir()
    for name, text in scripts.items():
        path = folder / "bin" / name.replace("_", "-")
        path.write_text("#!/bin/bash\n" + text)
        path.chmod(0o755)
    return folder


WAITS = """
trap 'echo got {signal} >>log; read -r _ <saved; {marker}exit 1' {signal}
coproc cat # ends with this script
echo ready >>log
wait
"""
"""Saves when it is told to stop, which takes until something comes through the pipe `saved`."""


def test_pretraining_looks_for_each_of_several_stores(tmp_path):
    """With a stand-in for sbatch, which gives the job a number."""
    for name in ("a", "b", "c:d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    path = f"{tools(tmp_path, sbatch='echo 7')}/bin:{os.environ['PATH']}"

    def submitted(store):
        return call(SLURM / "pretrain.sbatch", cwd=tmp_path, STORE=store, OUT=tmp_path / "out", PATH=path)

    for store in ("a", "a:b", "c:d"):
        done = submitted(store)
        assert (done.returncode, done.stdout) == (0, "pretrain: job 7\n"), done.stderr
    for store, lacking in (("a:z", "z"), ("z", "z"), ("c:d:a", "c")):
        done = submitted(store)
        assert done.returncode == 2
        assert f"STORE={store}: {lacking} is no store" in done.stderr
    for store in (":", "::"):
        done = submitted(store)
        assert done.returncode == 2
        assert f"STORE={store} names no store" in done.stderr


@pytest.mark.parametrize(
    ("sent", "heard", "launcher"), [("TERM", "TERM", "torchrun"), ("USR1", "USR1", "torchrun"), ("USR1", "TERM", "deepspeed")]
)
@pytest.mark.parametrize(("saved", "code"), [(True, 85), (False, 1)])
def test_signals_reach_the_launcher_and_a_saved_end_is_told(tmp_path, sent, heard, launcher, saved, code):
    """launch.sh does its part for any launcher that heeds signals; this one is a stand-in, see below for real ones."""
    waits = WAITS.format(signal=heard, marker="echo stopped >out/preempted; " if saved else "")
    environment = os.environ | {"VENV": str(tools(tmp_path, **{launcher: waits})), "LAUNCHER": launcher, "MOLEBLEND_PREEMPTED_EXIT": "85"}
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "saved")
    process = subprocess.Popen([LAUNCH, "s", "--save-dir", "out"], env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    log = tmp_path / "log"
    until(lambda: log.is_file() and log.read_text(), runs=lambda: process.poll() is None)
    process.send_signal(getattr(signal, f"SIG{sent}"))
    until(lambda: "got" in log.read_text(), runs=lambda: process.poll() is None)
    (tmp_path / "saved").write_text("\n")
    assert process.wait(120) == code
    assert log.read_text() == f"ready\ngot {heard}\n"


def test_a_marker_of_an_earlier_run_is_not_believed(tmp_path):
    environment = os.environ | {"VENV": str(tools(tmp_path, torchrun="exit 3\n"))}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "preempted").write_text("stopped")
    os.utime(tmp_path / "checkpoints" / "preempted", (1e9, 1e9))
    assert subprocess.run([LAUNCH, "s"], env=environment, cwd=tmp_path).returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_processes_of_either_launcher_train_as_one(launcher, qm9_store, tmp_path):
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed")
    expected = alone(qm9_store, tmp_path / "alone")
    (tmp_path / "two").mkdir()
    master = f"127.0.0.1:{free_port()}"
    done = call(LAUNCH, str(qm9_store.path), *words(tmp_path / "two"), LAUNCHER=launcher, PROCS=2, MASTER=master)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert losses_in(tmp_path / "two") == expected
    assert len(expected) == UPDATES


def launch(out, *words, **settings):
    """launch.sh, in the background."""
    command = [LAUNCH, *map(str, words)]
    return subprocess.Popen(command, env=clean(**settings), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.cold
@pytest.mark.parametrize(("launcher", "number", "code"), [("torchrun", signal.SIGUSR1, 85), ("deepspeed", signal.SIGTERM, 0)])
def test_training_that_is_stopped(launcher, number, code, qm9_store, tmp_path):
    """tests/cluster has the other pairs of launcher and signal."""
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed")
    more = {"MASTER": f"127.0.0.1:{free_port()}"} | ({"MOLEBLEND_PREEMPTED_EXIT": code} if code else {})
    check_stop(qm9_store, tmp_path / "run", number, code, launch, LAUNCHER=launcher, **more)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
