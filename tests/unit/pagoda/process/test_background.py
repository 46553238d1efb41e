"""Background tasks: failures are logged and restarted, and ended tasks are awaited."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pagoda.process.background import end_tasks, keep_running, report_failure

ROOT = Path(__file__).parents[4]


class Work:
    """Work that fails in each run but the last, which continues until it may return."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.num_runs = 0
        self.runs_well = asyncio.Event()
        self.may_return = asyncio.Event()

    async def run(self) -> None:
        self.num_runs += 1
        if self.failures:
            raise self.failures.pop(0)
        self.runs_well.set()
        await self.may_return.wait()


async def test_what_fails_is_logged_and_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(ValueError("a"), ValueError("a"), OSError("b"))
    task = keep_running("the work", work.run, longest_delay_s=0.01)
    await work.runs_well.wait()
    work.may_return.set()
    await task
    assert work.num_runs == 4
    told = [(vars(each)["task"], vars(each)["reason"], bool(each.exc_info)) for each in caplog.records]
    again = ("the work", "ValueError('a')")
    assert told == [(*again, True), (*again, False), ("the work", "OSError('b')", True)]


async def test_the_wait_grows_up_to_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(*(ValueError() for _ in range(5)))
    task = keep_running("w", work.run, longest_delay_s=0.3)
    await work.runs_well.wait()
    await end_tasks(task)
    assert [vars(each)["again_in_s"] for each in caplog.records] == [0.1, 0.2, 0.3, 0.3, 0.3]


async def test_ending_waits_and_says_what_failed_on_the_way_out(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on the way out")

    tasks = [keep_running("well", work.run), asyncio.create_task(fails_when_cancelled(), name="ill")]
    await work.runs_well.wait()
    await end_tasks(*tasks)
    assert all(task.done() for task in tasks) and tasks[0].cancelled()
    (record,) = caplog.records
    assert (vars(record)["task"], vars(record)["reason"]) == ("ill", "ValueError('on the way out')")


async def test_a_failure_that_somebody_awaits_is_not_told_twice(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(Work(ValueError("mine")).run())
    with pytest.raises(ValueError, match="mine"):
        await task
    await end_tasks(task)
    assert caplog.records == []
    report_failure(task)
    assert len(caplog.records) == 1


HELD = """
import asyncio, time
from pagoda.process.background import end_tasks, keep_running, tell_when_held

def hold_the_loop():
    time.sleep(1.0)

async def main():
    telling = keep_running("watch", lambda: tell_when_held(0.2))
    await asyncio.sleep(0.05)
    hold_the_loop()
    await end_tasks(telling)
    time.sleep(0.5)

asyncio.run(main())
"""


def test_what_holds_the_event_loop_is_in_the_log() -> None:
    """The stacks are written once, and not after the watch has ended."""
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, timeout=200, cwd=ROOT)
    assert done.returncode == 0 and done.stderr.count("Timeout") == 1
    assert "in hold_the_loop" in done.stderr


def test_no_failure_is_gathered_and_forgotten() -> None:
    """Ending tasks by `gather(..., return_exceptions=True)` would lose the reasons of their failures."""
    sources = [
        path for tier in ("gateway", "scheduler", "worker", "kvcache", "pagoda") for path in (ROOT / tier).rglob("*.py")
    ]
    found = [str(path.relative_to(ROOT)) for path in sources if re.search(r"return_exceptions=True", path.read_text())]
    assert sources and found == []
