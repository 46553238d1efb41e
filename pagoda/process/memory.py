"""The memory that this process can still allocate: the machine's, within the limits of the control groups (cgroups) around it.

Containers, systemd and Kubernetes limit memory by cgroups of version 1 or 2. A limit applies to a group and all groups below
it, so each group from the process's own up to the root of the mount counts.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
# Version 1 writes "no limit" as the largest multiple of a page that a signed 64-bit number holds.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class AvailableMemory:
    num_bytes: int
    limit_bytes: int | None = None
    """Limit of the cgroup that leaves the least, if that is less than the machine has."""

    def describe(self) -> str:
        limit = "" if self.limit_bytes is None else f" within this container's limit of {size(self.limit_bytes)}"
        return f"{size(self.num_bytes)} {'is' if self.num_bytes < 1000 else 'are'} available{limit}"


def available_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> AvailableMemory:
    """Return the memory that this process can allocate before the machine or a container runs out of it."""
    machine = AvailableMemory(_machine_available_bytes(proc))
    return min([machine, *_available_in_groups(proc, cgroup)], key=lambda memory: memory.num_bytes)


def memory_groups(proc: Path = PROC, cgroup: Path = CGROUP) -> Iterator[tuple[Path, bool]]:
    """Yield the directories of this process's memory cgroups from its own to the root, with True for version 2.

    In a container without a cgroup namespace the path of the group is the host's, and its directory is not visible. The mount
    then shows the container's group as its root.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1)
    }
    for controllers, path in paths.items():
        if "memory" in controllers.split(","):
            yield from ((group, False) for group in _upwards(cgroup / "memory", path))
    yield from ((group, True) for group in _upwards(cgroup, paths.get("", "/")))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for length in range(len(parts), -1, -1):
        if (group := mount.joinpath(*parts[:length])).is_dir():
            yield group


def _available_in_groups(proc: Path, cgroup: Path) -> Iterator[AvailableMemory]:
    for group, is_unified in memory_groups(proc, cgroup):
        limits, used = _limits_and_use(group, is_unified)
        if used is not None:
            for limit in limits:
                if limit is not None and limit < _NO_LIMIT:
                    yield AvailableMemory(max(0, limit - used + _cached_file_bytes(group, is_unified)), limit)


def _limits_and_use(group: Path, is_unified: bool) -> tuple[list[int | None], int | None]:
    """Return a group's limits and the memory that it uses.

    Version 1 also tells the limit of groups above, which a container may not see. Version 2 begins to slow a group down at
    `memory.high`.
    """
    if is_unified:
        return [_number(group / "memory.max"), _number(group / "memory.high")], _number(group / "memory.current")
    limits = [_number(group / "memory.limit_in_bytes"), read_field(group / "memory.stat", "hierarchical_memory_limit")]
    return limits, _number(group / "memory.usage_in_bytes")


def _cached_file_bytes(group: Path, is_unified: bool) -> int:
    """Return the memory of cached files, which counts as used and is freed when memory is needed."""
    prefix = "" if is_unified else "total_"
    return sum(read_field(group / "memory.stat", f"{prefix}{kind}_file") or 0 for kind in ("inactive", "active"))


def _machine_available_bytes(proc: Path) -> int:
    available_kib = read_field(proc / "meminfo", "MemAvailable:")
    if available_kib is not None:
        return available_kib * 1024
    # Outside Linux, Python can tell only the total memory.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(file: Path) -> int | None:
    """Return the number in a file. None if there is no file, or it says "max"."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def read_field(file: Path, name: str) -> int | None:
    """Return the number behind a name at the beginning of a line, or None."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(words[1]) for line in lines if (words := line.split())[:1] == [name]), None)


def resident_bytes(proc: Path = PROC) -> int:
    """Return the memory that this process has now, without the pages of files. 0 where that is not known."""
    return (read_field(proc / "self" / "status", "RssAnon:") or 0) * 1024


def size(num_bytes: float) -> str:
    """Return a size in decimal units: `98 MB`, `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit != "GB" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
