"""Available memory is the machine's, within the limits of all cgroups around the process, of both versions."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pagoda.process.memory import AvailableMemory, available_memory, size

GB = 1_000_000_000
V1_NO_LIMIT = 9223372036854771712


class Machine:
    """A machine's files in /proc and /sys/fs/cgroup, with 8 GB of available memory."""

    def __init__(self, root: Path, groups: str) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroup.mkdir()
        (self.proc / "meminfo").write_text(f"MemTotal: 16 kB\nMemAvailable:   {8 * GB // 1024} kB\n")
        (self.proc / "self" / "cgroup").write_text(groups)

    def write(self, group: str, files: Mapping[str, object]) -> None:
        directory = self.cgroup / group
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_text(f"{content}\n")

    def available(self) -> AvailableMemory:
        return available_memory(self.proc, self.cgroup)


def v2(limit: object, used: int, cached: int = 0) -> dict[str, object]:
    return {
        "memory.max": limit,
        "memory.current": used,
        "memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 0",
    }


def v1(limit: int, used: int, cached: int = 0, above: int = V1_NO_LIMIT) -> dict[str, object]:
    stat = f"cache 7\nhierarchical_memory_limit {above}\ntotal_inactive_file {cached}\ntotal_active_file 0"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    assert machine.available() == AvailableMemory(8 * GB // 1024 * 1024)


def test_a_limit_of_version_2_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/\n")
    machine.write("", v2(4 * GB, used=3 * GB, cached=2 * GB))
    assert machine.available() == AvailableMemory(3 * GB, 4 * GB)
    machine.write("", v2("max", used=3 * GB))
    assert machine.available().limit_bytes is None


def test_every_level_of_version_2_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/user.slice/app.scope\n")
    machine.write("user.slice/app.scope", v2("max", used=GB))
    machine.write("user.slice", v2(2 * GB, used=int(1.5 * GB)))
    assert machine.available() == AvailableMemory(GB // 2, 2 * GB)
    machine.write("user.slice/app.scope", v2("max", used=GB) | {"memory.high": int(1.2 * GB)})
    assert machine.available() == AvailableMemory(GB // 5, int(1.2 * GB))


def test_every_level_of_version_1_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "4:memory:/docker/abc\n1:cpu:/other\n0::/\n")
    machine.write("memory/docker/abc", v1(V1_NO_LIMIT, used=GB))
    machine.write("memory/docker", v1(3 * GB, used=2 * GB, cached=GB // 2))
    assert machine.available() == AvailableMemory(int(1.5 * GB), 3 * GB)


def test_a_container_of_version_1_sees_only_its_own_group(tmp_path: Path) -> None:
    """The path is the host's; the mount shows the group as its root, which tells the limits above it."""
    machine = Machine(tmp_path, "4:cpuacct,memory:/docker/abc\n")
    machine.write("memory", v1(V1_NO_LIMIT, used=GB, above=int(1.25 * GB)))
    assert machine.available() == AvailableMemory(GB // 4, int(1.25 * GB))


def test_a_group_beyond_its_limit_has_nothing_left(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/gone/below\n")
    machine.write("", v2(GB, used=2 * GB))
    assert machine.available() == AvailableMemory(0, GB)
    assert machine.available().describe() == "0 B is available within this container's limit of 1.0 GB"


def test_unreadable_numbers_are_no_limit(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/\nnonsense\n")
    machine.write("", {"memory.max": "soon", "memory.current": "?", "memory.stat": ""})
    assert machine.available().limit_bytes is None


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(999, "999 B"), (98_000_000, "98 MB"), (1.5e9, "1.5 GB"), (2e12, "2.0 TB")]
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text
