"""`--slurm`: a run as jobs of Slurm, one that prepares, an array that trains, one that collects; settings as `scripts/slurm/` has them."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, write_atomically

FOLDER, JOBS = "slurm", "jobs.json"
STEPS = ("prepare", "work", "collect")
PREPARE, WORK, COLLECT = STEPS
OPTIONS = {"PARTITION": "partition", "ACCOUNT": "account", "QOS": "qos", "CONSTRAINT": "constraint", "MEM": "mem"}
"""Environment variable -> the option of sbatch that it is."""
DEFAULTS = {"TIME": "04:00:00", "CPUS": "4", "GPUS": "0", "PARALLEL": "32", "WARN": "120"}
LEAST = {"CPUS": 1, "PARALLEL": 1, "WARN": 0}
"""Those that are whole numbers, and the least that they may be."""
VARIABLES = (*OPTIONS, *DEFAULTS, "SBATCH_OPTIONS", "MODULES", "SETUP")
SCRIPT = """#!/bin/bash
set -uo pipefail
if [ -n "${{MODULES:-}}" ]; then
    for file in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /usr/share/lmod/lmod/init/bash; do
        command -v module >/dev/null || {{ [ ! -f "$file" ] || source "$file"; }}
    done
    module load $MODULES || exit 1
fi
[ -z "${{SETUP:-}}" ] || source "$SETUP" || exit 1
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-1}}}}"
told=
trap 'told=1; kill -TERM $!' USR1
{command} </dev/null &
wait $!
code=$?
if [ -n "$told" ]; then
    wait $!
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt "${{MAX_REQUEUES:-100}}" ]; then scontrol requeue "$SLURM_JOB_ID" && exit 0; fi
fi
exit "$code"
"""
"""A job: its time is nearly up at SIGUSR1; training saves then, and the job goes back into the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done on Slurm.

    Attributes:
        out: the run's folder. words: of the command, after `moleblend`. missing: numbers of the array's tasks that are to run.
        prepared: whether molecules and splits are there. what: an array's task in the plural, for people.
    """

    out: Path
    words: Sequence[str]
    missing: Sequence[int]
    prepared: bool
    what: str


def jobs_alive(out: Path) -> dict[str, dict[str, int]]:
    """Step -> state -> how many jobs of an earlier call are in it; empty where none is left."""
    noted = out / FOLDER / JOBS
    try:
        jobs = from_json(dict[str, str], read_json(noted)) if noted.exists() else {}
    except READING as error:
        told = "jobs that it named may be under way; when squeue shows none, delete it"
        raise UserError(f"{noted}: cannot be read ({error}); {told}") from error
    result: dict[str, dict[str, int]] = {}
    for step, job in jobs.items():
        # Of a job that Slurm has forgotten squeue says that there is none; it has ended.
        done = subprocess.run([_found("squeue"), "--noheader", "--array", f"--jobs={job}", "--format=%T"], capture_output=True, text=True)
        states = done.stdout.split() if done.returncode == 0 else []
        if done.returncode != 0 and "nvalid job id" not in done.stderr:
            raise UserError(f"squeue: {done.stderr.strip() or f'exit code {done.returncode}'}")
        if states:
            result[step] = {state.lower(): states.count(state) for state in dict.fromkeys(states)}
    return result


def submit(plan: Plan, options: str) -> dict[str, str]:
    """Step -> number of the job that was submitted.

    Args:
        options: for sbatch, of all jobs, as a shell would split them; after those of the environment.
    """
    folder = plan.out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, str] = {}
    common = [*sbatch_options(), *_split(options, "--sbatch")]
    after: list[str] = []
    for step in STEPS:
        if step == PREPARE and plan.prepared:
            continue
        own = ["--nodes=1", "--ntasks=1", f"--job-name=moleblend-{step}", f"--output={_pattern(folder)}/{step}{'-%a' * (step == WORK)}.out"]
        if step == WORK:
            own += [f"--array={','.join(map(str, plan.missing))}%{setting('PARALLEL')}", f"--signal=B:USR1@{setting('WARN')}"]
            own += [f"--gpus={setting('GPUS')}"] if setting("GPUS") != "0" else []
        command = [sys.executable, "-P", "-m", "moleblend_fs.cli.main", *plan.words, "--step", step]
        jobs[step] = _sbatch([*common, *own, *after], SCRIPT.format(command=shlex.join(command)))
        # What collects tells of tasks that failed, too.
        after = [f"--dependency={'afterany' if step == WORK else 'afterok'}:{jobs[step]}", "--kill-on-invalid-dep=yes"]
        write_atomically(folder / JOBS, as_json(jobs, indent=1) + "\n")
    return jobs


def sbatch_options() -> list[str]:
    """What the environment says of all jobs, as for the scripts in `scripts/slurm/`."""
    result = ["--parsable", "--export=ALL", "--requeue", "--open-mode=append", f"--chdir={os.getcwd()}"]
    result += [f"--{option}={os.environ[name]}" for name, option in OPTIONS.items() if os.environ.get(name)]
    result += [f"--time={setting('TIME')}", f"--cpus-per-task={setting('CPUS')}"]
    return result + _split(os.environ.get("SBATCH_OPTIONS", ""), "SBATCH_OPTIONS")


def setting(name: str) -> str:
    """An environment variable, or its default; UserError for what is no number where one is needed."""
    value = os.environ.get(name) or DEFAULTS[name]
    if name in LEAST and not (value.isdecimal() and int(value) >= LEAST[name]):
        raise UserError(f"{name}={value}: the environment variable must be a whole number from {LEAST[name]} on; set it so, or unset it")
    return value


def _split(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{where} {text!r}: {error}") from error


def _sbatch(words: list[str], script: str) -> str:
    done = subprocess.run([_found("sbatch"), *words], input=script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"sbatch: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip().partition(";")[0]  # JOB;CLUSTER where there are several


def _found(command: str) -> str:
    path = shutil.which(command)
    if path is None:
        raise UserError(f"--slurm: {command} was not found: give the command where jobs are submitted")
    return path


def _pattern(path: Path) -> str:
    """A path as sbatch reads it, to whom % begins a pattern."""
    return str(path).replace("%", "%%")


def handled(out: Path, options: str, how_far: Callable[[], str], planned: Callable[[], Plan]) -> bool:
    """Say how far jobs of an earlier call are, or submit what is missing; False where all is there and can be collected here.

    Args:
        options: see `submit`. how_far: what is finished, in words. planned: what is to be done, asked where no job is left.
    """
    for command in ("sbatch", "squeue"):
        _found(command)
    if alive := jobs_alive(out):
        told = "; ".join(f"{step}: " + ", ".join(f"{count} {state}" for state, count in states.items()) for step, states in alive.items())
        print(f"{how_far()}; jobs: {told}")
        return True
    for name in LEAST:
        setting(name)
    plan = planned()
    if not plan.missing:
        return False
    for line in failures(plan):
        print(line, file=sys.stderr)
    jobs = submit(plan, options)
    shown = ", ".join(f"{step} {job}" for step, job in jobs.items())
    print(f"submitted {len(plan.missing)} {plan.what} (jobs: {shown}); the same command says how far they are, and what they came to")
    return True


def failures(plan: Plan) -> list[str]:
    """The last lines that earlier jobs left of what is missing; their outputs are kept under another name."""
    result = []
    folder = plan.out / FOLDER
    for name in [PREPARE] * (not plan.prepared) + [f"{WORK}-{number}" for number in plan.missing]:
        path = folder / f"{name}.out"
        with contextlib.suppress(OSError):
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
            result += [f"{name} of before did not finish: {lines[-1][:300]}"] if lines else []
            os.replace(path, path.with_suffix(".before"))
    return result
