"""A SIGKILL of the kernel is told from others by the counts of both cgroup versions, or of the machine."""

from pathlib import Path

import pytest

from pagoda.process.oom_kills import KillWatch, OOMKills, count_oom_kills, explain_kill
from tests.unit.pagoda.process.test_memory import GB, Machine, v1, v2

NONE = OOMKills()


def v1_kills(count: int) -> dict[str, object]:
    return {"memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}"}


def v2_kills(count: int) -> dict[str, object]:
    return {"memory.events": f"low 0\nhigh 3\nmax 9\noom 2\noom_kill {count}\noom_group_kill 0"}


@pytest.mark.parametrize(
    ("groups", "directory", "limits", "kills"),
    [("0::/pod\n", "pod", v2(GB, 0), v2_kills), ("4:memory:/pod\n0::/\n", "memory/pod", v1(GB, 0), v1_kills)],
    ids=["v2", "v1"],
)
def test_the_count_of_the_own_group_is_certain(
    tmp_path: Path, groups: str, directory: str, limits: dict[str, object], kills: object
) -> None:
    machine = Machine(tmp_path, groups)
    assert callable(kills)
    machine.write(directory, limits | kills(5))
    watch = KillWatch(machine.proc, machine.cgroup)
    assert watch.explain() is None
    machine.write(directory, kills(6))
    assert watch.explain() == "the kernel killed it because memory ran out within this container's limit of 1.0 GB"
    assert watch.explain() is None, "one kill explains one end"


def test_the_count_of_the_machine_makes_it_probable(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/\n")
    (machine.proc / "vmstat").write_text("nr_free_pages 7\noom_kill 1\n")
    watch = KillWatch(machine.proc, machine.cgroup)
    assert watch.explain() is None
    (machine.proc / "vmstat").write_text("oom_kill 2\n")
    assert watch.explain() == "the kernel probably killed it because memory ran out on this machine"


def test_without_counts_nothing_is_claimed(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path, tmp_path / "none") == NONE
    assert explain_kill(NONE, NONE, None) is None
    assert explain_kill(NONE, OOMKills(3, 3), None) is None
