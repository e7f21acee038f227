"""Memory that this process can still get: of the machine, within the limits of control groups (Slurm's jobs, containers) and its own."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class _Version:
    """Files of a memory controller: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.

    Attributes:
        limits: files that hold one, or "max". usage: what is used, file caches included.
        cache: line of memory.stat, of caches that can be dropped. inherited: line of memory.stat, the lowest limit of all parents.
    """

    limits: tuple[str, ...]
    usage: str
    cache: str
    inherited: str | None = None


_VERSIONS = {
    1: _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file", "hierarchical_memory_limit"),
    2: _Version(("memory.max", "memory.high"), "memory.current", "inactive_file"),
}


def of_machine(root: Path = Path("/")) -> int:
    """Bytes that all processes here together can still get.

    Args:
        root: where /proc and /sys are.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())["MemAvailable"]
    left = [_left(folder, _VERSIONS[version]) for version, folder in _groups(root)]
    return max(0, min([int(available.split()[0]) * 1024, *(bytes for bytes in left if bytes is not None)]))


def of_process() -> int | None:
    """Bytes of address space that this process can still get (`ulimit -v`), or None for no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else max(0, limit - _statm()[0])


def resident() -> int:
    """Bytes of memory that this process has."""
    return _statm()[1]


def _statm() -> tuple[int, int]:
    """Bytes of address space and of memory; zeros where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0, 0
    size, resident_pages, *_ = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in statm.read_text().split())
    return size, resident_pages


def _groups(root: Path) -> list[tuple[int, Path]]:
    """Version and folder of the memory groups that this process is in, with their parents."""
    paths = {}
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            paths[1 if controllers else 2] = path
    found = []
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options.split(",") else 0
        if version in paths:
            inside, at = mount.split()[3:5]
            top = root / at.lstrip("/")
            # In a container the group's own path may not be there: what is mounted is the group.
            path = os.path.relpath(paths[version], inside) if paths[version].startswith(inside) else "."
            folder = top if (top / path).resolve() != top.resolve() and not (top / path).is_dir() else top / path
            found += [(version, one) for one in (folder, *folder.parents) if one.is_relative_to(top)]
    return found


def _left(folder: Path, version: _Version) -> int | None:
    """Bytes that a group can still take; None if it has no limit (the topmost has not even the files)."""
    if not (folder / version.usage).exists():
        return None
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    limits = [text for name in version.limits if (folder / name).exists() and (text := (folder / name).read_text().strip()) != "max"]
    if version.inherited in stat:
        limits.append(stat[version.inherited])
    if not limits:
        return None
    return min(map(int, limits)) - int((folder / version.usage).read_text()) + int(stat.get(version.cache, 0))
