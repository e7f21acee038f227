"""What is left within limits of control groups, read from trees of files as Linux has them."""

import pytest

from moleblend_fs.runtime import host_memory

GIB = 2**30
VERSION_2 = "30 23 0:26 {inside} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
VERSION_1 = "35 31 0:32 {inside} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
CPU = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemAvailable:   8388608 kB\n")
    return tmp_path


def group(folder, limit, used, **stat):
    """A group of version 2, or of version 1 where `limit` is a number."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("max", "current") if isinstance(limit, str) else ("limit_in_bytes", "usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in {"anon": 5, **stat}.items()))


def inside(root, groups: str, mounts: str) -> int:
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)
    return host_memory.of_machine(root)


def test_no_groups(root):
    assert inside(root, "0::/\n", VERSION_2.format(inside="/")) == 8 * GIB
    assert inside(root, "", "") == 8 * GIB


def test_version_2_and_its_parents(root):
    job = root / "sys/fs/cgroup/system.slice/slurm/job_7"
    group(job, "max", 1 * GIB)
    group(job.parent, str(4 * GIB), 3 * GIB, inactive_file=GIB // 2)
    groups = "0::/system.slice/slurm/job_7\n"
    assert inside(root, groups, VERSION_2.format(inside="/")) == 1.5 * GIB
    (job / "memory.high").write_text(f"{2 * GIB}\n")
    assert inside(root, groups, VERSION_2.format(inside="/")) == 1 * GIB, "above memory.high a group is slowed down until it stands still"
    group(job, str(GIB), 2 * GIB)
    assert inside(root, groups, VERSION_2.format(inside="/")) == 0


def test_version_1_among_other_controllers(root):
    job = root / "sys/fs/cgroup/memory/slurm/uid_0/job_7"
    group(job, 2**63 - 4096, GIB)
    group(job.parent, 2 * GIB, GIB, total_inactive_file=GIB // 4)
    groups = "9:name=systemd:/x\n4:cpu,cpuacct:/elsewhere\n3:memory:/slurm/uid_0/job_7\n0::/\n"
    assert inside(root, groups, CPU + VERSION_1.format(inside="/")) == 1.25 * GIB


@pytest.mark.parametrize("inside_mount", ["/docker/abc", "/"])
def test_a_container_that_sees_its_own_group_only(root, inside_mount):
    """The group's path is the host's; what is mounted is the group itself."""
    group(root / "sys/fs/cgroup", str(3 * GIB), GIB)
    assert inside(root, "0::/docker/abc\n", VERSION_2.format(inside=inside_mount)) == 2 * GIB


def test_a_limit_of_parents_that_cannot_be_seen(root):
    group(root / "sys/fs/cgroup/memory", 2**63 - 4096, GIB, hierarchical_memory_limit=2 * GIB)
    assert inside(root, "3:memory:/docker/abc\n", VERSION_1.format(inside="/docker/abc")) == GIB


def test_this_machine():
    assert 0 < host_memory.of_machine() < 2**50
    assert 2**20 < host_memory.resident() < 2**40
    assert host_memory.of_process() is None or host_memory.of_process() > 0
