"""How much memory this process can still take: the machine's, or less where a container is limited."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits."""


def machine_available_bytes() -> int:
    return min([_machine_available_bytes(), *_container_available_bytes()])


def _machine_available_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    # Elsewhere than on Linux all memory is the best that Python knows.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_available_bytes() -> list[int]:
    """Nothing where there is no limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used_bytes = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return []
    if limit == "max":
        return []
    # The kernel counts cached files as used, and gives them up when memory is asked for.
    return [max(0, int(limit) - used_bytes + int(statistics.get("inactive_file", 0)))]
