"""Supervision with real child processes: they are restarted, stopped in order, and never left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pagoda.cli.child import Child, ChildCommand, describe_exit
from pagoda.cli.supervisor import LONGEST_DELAY_S, ChildLostError, Supervisor, restart_delay_s
from pagoda.process.ending import DEVICE_LOST

FOREVER = "import signal; signal.pause()"


def command(directory: Path, name: str, code: str) -> ChildCommand:
    return ChildCommand(name=name, arguments=[sys.executable, "-c", code], log=directory / f"{name}.log")


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that another process fulfils, which cannot set an event here."""
    async with asyncio.timeout(200):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    marks = tmp_path / "starts"
    code = f"open({str(marks)!r}, 'a').write(f'{{__import__(\"os\").getpid()}}\\n'); {FOREVER}"
    supervisor = Supervisor([command(tmp_path, "worker", code)], say=said.append, grace_s=5)
    supervisor.settle()
    running = asyncio.create_task(supervisor.run())

    def pids() -> list[int]:
        return [int(line) for line in marks.read_text().splitlines()] if marks.exists() else []

    await until(lambda: len(pids()) == 1)
    os.kill(pids()[0], signal.SIGKILL)
    await until(lambda: len(pids()) == 2)
    await supervisor.stop()
    await running
    assert said == ["The worker exited (SIGKILL); restarting it."]
    assert not psutil.pid_exists(pids()[1])


class OneKill:
    """A watch that explains the first SIGKILL by too little memory."""

    def __init__(self) -> None:
        self._left = ["the kernel killed it because memory ran out"]

    def explain(self) -> str | None:
        return self._left.pop() if self._left else None


async def test_a_child_that_is_killed_for_memory_is_named_with_what_to_do(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    supervisor = Supervisor([command(tmp_path, "worker", code)], say=print, grace_s=5, kills=OneKill())
    with pytest.raises(
        ChildLostError, match=r"\(SIGKILL: the kernel killed it because memory ran out\)\. To need less"
    ) as lost:
        await supervisor.run()
    assert "--kv-memory" in str(lost.value)


async def test_a_restart_says_that_memory_ran_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagoda.cli.supervisor.restart_delay_s", lambda deaths: 0.0)
    said: list[str] = []
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    supervisor = Supervisor([command(tmp_path, "worker", code)], say=said.append, grace_s=5, kills=OneKill())
    supervisor.settle()
    running = asyncio.create_task(supervisor.run())
    await until(lambda: len(said) >= 2)
    await supervisor.stop()
    await running
    memory = (
        "The worker exited (SIGKILL: the kernel killed it because memory ran out); restarting it. To need less memory"
    )
    assert said[0].startswith(memory)
    assert said[1] == "The worker exited (SIGKILL); restarting it."


async def test_a_child_that_ends_while_starting_ends_the_whole(tmp_path: Path) -> None:
    commands = [
        command(tmp_path, "gateway", FOREVER),
        command(tmp_path, "worker", "raise SystemExit('no such architecture: bert')"),
    ]
    supervisor = Supervisor(commands, say=print, grace_s=5)
    with pytest.raises(ChildLostError, match=r"worker exited while starting \(exit code 1\)") as lost:
        await supervisor.run()
    assert "no such architecture: bert" in str(lost.value)
    await supervisor.stop()


async def test_a_child_that_keeps_ending_is_started_again_and_again_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagoda.cli.supervisor.restart_delay_s", lambda deaths: 0.0)
    said: list[str] = []
    up = tmp_path / "up"
    other = command(tmp_path, "gateway", f"open({str(up)!r}, 'w').close(); {FOREVER}")
    commands = [other, command(tmp_path, "worker", "raise SystemExit(7)")]
    supervisor = Supervisor(commands, say=said.append, grace_s=5)
    supervisor.settle()
    running = asyncio.create_task(supervisor.run())
    await until(lambda: len(said) >= 7 and up.exists())
    await supervisor.stop()
    await running
    assert set(said) == {"The worker exited (exit code 7); restarting it."}


async def test_a_child_that_ends_too_often_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's end is shown as soon as the delay is the longest."""
    monkeypatch.setattr("pagoda.cli.supervisor.restart_delay_s", lambda deaths: LONGEST_DELAY_S)
    said: list[str] = []
    supervisor = Supervisor([command(tmp_path, "worker", "raise SystemExit('no memory')")], say=said.append, grace_s=5)
    supervisor.settle()
    running = asyncio.create_task(supervisor.run())
    await until(lambda: bool(said))
    running.cancel()
    assert said[0].startswith(
        f"The worker exited (exit code 1); restarting it in {LONGEST_DELAY_S:g} s. Last lines of "
    )
    assert said[0].endswith("  no memory")


def test_restarts_slow_down_and_recover() -> None:
    assert [restart_delay_s([0.0] * count) for count in range(1, 8)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert restart_delay_s([0.0, 0.0, 100.0]) == 0.0


async def test_children_stop_in_order(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    code = """
import signal, sys
def end(*_):
    open({ends!r}, "a").write("{name}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open({up!r}, "w").close()
signal.pause()
"""
    names = ["gateway", "worker", "scheduler"]
    ups = [tmp_path / f"{name}.up" for name in names]
    commands = [
        command(tmp_path, name, code.format(ends=str(ends), name=name, up=str(up)))
        for name, up in zip(names, ups, strict=True)
    ]
    supervisor = Supervisor(commands, say=print, grace_s=10)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: all(up.exists() for up in ups))
    await supervisor.stop()
    await running
    assert ends.read_text().split() == names


async def test_a_deaf_child_and_its_own_children_are_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "grandchild"
    code = f"""
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {FOREVER!r}])
open({str(pid_file)!r} + ".part", "w").write(str(child.pid))
os.rename({str(pid_file)!r} + ".part", {str(pid_file)!r})
signal.pause()
"""
    child = await Child.start(command(tmp_path, "worker", code))
    await until(pid_file.exists)
    grandchild = psutil.Process(int(pid_file.read_text()))
    await child.stop(grace_s=0.05)
    assert await child.wait() == -signal.SIGKILL
    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from pagoda.cli.child import ChildCommand
from pagoda.cli.supervisor import Supervisor
command = ChildCommand(name="w", arguments=[sys.executable, "-c", {FOREVER!r}], log=Path({str(tmp_path / "w.log")!r}))
asyncio.run(Supervisor([command], say=print, grace_s=1).run())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    process = psutil.Process(parent.pid)
    await until(lambda: bool(process.children()))
    (child,) = process.children()
    parent.kill()
    await parent.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_endings() -> None:
    assert [describe_exit(code) for code in (3, -9)] == ["exit code 3", "SIGKILL"]
    assert describe_exit(DEVICE_LOST) == "exit code 70: its device was lost"
