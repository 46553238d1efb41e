"""Counters in which the kernel says that it has killed processes because memory ran out.

The exit code of such a process says SIGKILL only, as after `kill -9`. The kernel counts its own kills: in the cgroup of the
killed process, and for the machine.
"""

from dataclasses import dataclass
from pathlib import Path

from pagoda.process.memory import CGROUP, PROC, available_memory, memory_groups, read_field, size


@dataclass(frozen=True, slots=True)
class OOMKills:
    """Numbers of kills so far. None if there is no such count."""

    in_group: int | None = None
    """Kills in this process's own cgroup, which its children share."""
    on_machine: int | None = None
    """Kills on the whole machine, other containers included."""


def count_oom_kills(proc: Path = PROC, cgroup: Path = CGROUP) -> OOMKills:
    """Return the kernel's counts so far."""
    group, is_unified = next(memory_groups(proc, cgroup), (None, False))
    file = "memory.events" if is_unified else "memory.oom_control"
    in_group = None if group is None else read_field(group / file, "oom_kill")
    return OOMKills(in_group, read_field(proc / "vmstat", "oom_kill"))


def explain_kill(before: OOMKills, after: OOMKills, limit_bytes: int | None) -> str | None:
    """Return why a process of this group got a SIGKILL between two counts, if memory was or probably was the reason.

    `limit_bytes` is the memory limit of the container, if it has one.
    """
    where = "on this machine" if limit_bytes is None else f"within this container's limit of {size(limit_bytes)}"
    if _has_risen(before.in_group, after.in_group):
        return f"the kernel killed it because memory ran out {where}"
    if _has_risen(before.on_machine, after.on_machine):
        return f"the kernel probably killed it because memory ran out {where}"
    return None


def _has_risen(before: int | None, after: int | None) -> bool:
    return before is not None and after is not None and after > before


class KillWatch:
    """Explains the SIGKILLs of children, each by kills that were counted since the last explanation."""

    def __init__(self, proc: Path = PROC, cgroup: Path = CGROUP) -> None:
        self._proc, self._cgroup = proc, cgroup
        self._seen = count_oom_kills(proc, cgroup)

    def explain(self) -> str | None:
        """Return why a child got a SIGKILL, if memory was or probably was the reason. Call it once for each."""
        before, self._seen = self._seen, count_oom_kills(self._proc, self._cgroup)
        return explain_kill(before, self._seen, available_memory(self._proc, self._cgroup).limit_bytes)
