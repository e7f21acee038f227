"""Processes that the command starts itself (--distributed-world-size N): it ends as with one process, also by a signal."""

import os
import signal
import subprocess

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from fairseq_plugins.patches import starting_ranks
from moleblend_fs.runtime.stop_signals import EXIT_VARIABLE
from tests.distributed.training import ADAM, QUIET, checkpoint
from tests.fairseq_plugins.runs import BIN, FINETUNE, SMALL, arguments, environment, train_forked
from tests.support.waiting import until


def is_gone(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.cold
@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 85), (signal.SIGINT, -signal.SIGINT)], ids=["USR1", "INT"])
def test_a_signal_to_the_command_alone(store, tmp_path, number, code):
    """SIGUSR1, as SIGTERM: the exit code asked for and a checkpoint; SIGINT: what ends a process of Python. No process is left."""
    words = arguments(store.path, tmp_path, (*QUIET, *ADAM, "--max-update", "100000", "--distributed-world-size", "2"))
    process = subprocess.Popen(
        [str(BIN / "fairseq-train"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | {EXIT_VARIABLE: "85"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's jobs in the background ignore it
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if '"num_updates": "3"' in line:
                process.send_signal(number)
                break
        output = process.stdout.read()
        assert process.wait(120) == code, output[-3000:]
        until(lambda: is_gone(process.pid), seconds=60)
    finally:
        if not is_gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    if number != signal.SIGINT:
        done = checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"]
        assert f"stopped by signal {int(number)} after {done} updates" in (tmp_path / "preempted").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_user_s_mistake_has_the_same_exit_code(store, tmp_path, processes):
    """One that the processes find, not the command before it starts them."""
    options = (*FINETUNE, *SMALL, *ADAM, "--batch-size", "5", "--targets", "colour", "--distributed-world-size", processes)
    run = train_forked(store.path, tmp_path, *options)
    assert run.code == 2
    assert "no label 'colour'" in run.output
    assert "Traceback" not in run.output


def exits(place: int, code: int) -> None:
    """What a process does that ends by itself (a code), or is ended by a signal (its number below 0)."""
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


@pytest.mark.parametrize(("code", "ends_with"), [(3, 3), (-signal.SIGKILL, 137)])
def test_the_exit_code_of_a_process_is_the_command_s(code, ends_with):
    context = torch.multiprocessing.start_processes(exits, args=(int(code),), nprocs=2, join=False, start_method="fork")
    with pytest.raises(SystemExit) as end:
        starting_ranks.wait_for(context, lambda number, frame: None)
    assert end.value.code == ends_with


def config(**distributed: object) -> OmegaConf:
    cfg = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(cfg, False)
    cfg.distributed_training.update(distributed)
    return cfg


@pytest.mark.parametrize(
    ("options", "spawns"),
    [
        ({"distributed_world_size": 2}, True),
        ({"distributed_world_size": 1}, False),
        ({"distributed_world_size": 2, "distributed_no_spawn": True, "distributed_init_method": "tcp://localhost:1"}, False),
    ],
    ids=["two", "one", "started"],
)
def test_processes_of_several_gpus_are_started_here_too(monkeypatch, options, spawns):
    """fairseq's own start would lose signals and exit codes; it is the same function as on the CPU."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = config(**options)
    assert starting_ranks.spawns(cfg) == spawns
    if spawns:
        assert cfg.distributed_training.distributed_init_method.startswith("tcp://localhost:")
