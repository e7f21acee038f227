"""A real Slurm and two hosts on one machine, for tests that `./scripts/test.sh --cluster` runs; otherwise they are deselected."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cluster.training import alone
from tests.support import warm_likeness
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "scripts" / "cluster"
SLURM = ROOT / "scripts" / "slurm"
WANTED = os.environ.get("MOLEBLEND_CLUSTER") == "1"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(config, items):
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.cluster)
    if not WANTED and ours:
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


def pytest_terminal_summary(terminalreporter):
    if not WANTED:
        terminalreporter.write_line(
            "tests/cluster is deselected: it brings up Slurm and network namespaces; ./scripts/test.sh --cluster runs it"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skips before anything is made for the whole session, which takes longer."""
    needs = {"cluster": slurm_or_apt(), "hosts": ("ip", "unshare"), "disk": ("mount", "umount")}
    for name in item.fixturenames:
        if name in needs:
            need_root(*needs[name])


def slurm_or_apt():
    """Commands that a Slurm is brought up with."""
    return ("unshare", *(() if shutil.which("slurmctld") else ("apt-get",)))


def need_root(*commands):
    """Skip where the tests cannot have what they need."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to bring up Slurm or network namespaces")
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"needs the command {command}")


@dataclass(frozen=True)
class Cluster:
    """Two nodes under Slurm.

    Attributes:
        environment: for its clients and jobs.
        lab: its folder.
    """

    environment: dict[str, str]
    lab: Path

    def run(self, *words, check=True, **settings) -> subprocess.CompletedProcess:
        """A command with settings as environment variables; what it says is in the assertion if it fails."""
        settings = {name: str(value) for name, value in settings.items()}
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environment | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def submit(self, script, *words, **settings) -> dict[str, str]:
        """Step -> job number of one of our scripts."""
        lines = self.run(SLURM / script, *words, **settings).stdout.splitlines()
        return dict(line.split(": job ") for line in lines)

    def jobs(self, job) -> list[dict[str, str]]:
        """What Slurm knows of a job, or of each task of an array."""
        shown = self.run("scontrol", "show", "job", "--oneliner", job).stdout
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in shown.splitlines()]

    def wait(self, job, states, seconds=300) -> list[dict[str, str]]:
        """Until a job, or all tasks of an array, are in one of the states."""
        return self.until(lambda: (found := self.jobs(job)) and all(one["JobState"] in states for one in found) and found, seconds, job)

    def until(self, condition, seconds, what):
        """The condition's first value that is true; the tests' own limit, to fail instead of hanging."""
        return until(condition, seconds=seconds, said=lambda: f"{what}\n{self.run('squeue', check=False).stdout}{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()[-2000:]}" for path in sorted((self.lab / "log").iterdir()))


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def job_environment() -> dict[str, str]:
    """This interpreter's commands first, one thread a process, and nothing of a distributed start."""
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", warm_likeness.VARIABLE)
    kept = {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith(("SLURM_", "SBATCH_"))}
    binaries = Path(sys.executable).parent
    return kept | {"OMP_NUM_THREADS": "1", "VENV": str(binaries.parent), "PATH": f"{binaries}:{kept['PATH']}", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def expected(qm9_store, tmp_path_factory):
    """Update -> loss of the runs that two processes are to repeat."""
    return alone(qm9_store, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    lab = tmp_path_factory.mktemp("slurm")
    up = subprocess.run([CLUSTER / "slurm_up.sh", lab], capture_output=True, text=True)
    if up.returncode != 0 and not shutil.which("slurmctld"):
        pytest.skip(f"Slurm cannot be installed: {up.stderr.strip().splitlines()[-1:]}")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield Cluster(job_environment() | {"SLURM_CONF": str(lab / "slurm.conf")}, lab)
    finally:
        subprocess.run([CLUSTER / "slurm_down.sh", lab], check=False)


@pytest.fixture
def warm_cluster(cluster, warm_starts):
    """The same, for jobs whose start is not what is tested: `warm_server` has imported what they need."""
    return replace(cluster, environment=cluster.environment | {warm_likeness.VARIABLE: warm_starts})


@pytest.fixture
def hosts():
    """The name of a pair of network namespaces, for scripts/cluster/netns_*.sh."""
    name = f"mb{os.getpid()}h"
    up = subprocess.run([CLUSTER / "netns_up.sh", name], capture_output=True, text=True)
    if up.returncode != 0:
        pytest.skip(f"no network namespaces here: {up.stderr.strip()}")
    try:
        yield name
    finally:
        subprocess.run([CLUSTER / "netns_down.sh", name], check=True)
