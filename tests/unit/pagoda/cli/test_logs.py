"""The logs of children stay bounded while the children write to them."""

import asyncio
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagoda.cli import logs
from pagoda.cli.child import Child, ChildCommand
from pagoda.cli.logs import begin_anew, keep_bounded, last_lines, older, shorten
from pagoda.cli.main import app
from pagoda.process.background import end_tasks


def test_a_log_that_has_grown_becomes_the_older_part_in_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    lines = [f"line {number:04}\n" for number in range(100)]
    log.write_text("".join(lines))
    assert not shorten(log, 1000) and log.stat().st_size == 1000
    with log.open("a") as written:
        written.write("line 0100\n")
        written.flush()
        assert shorten(log, 1000)
        assert log.read_text() == ""
        assert older(log).read_text() == "".join([*lines[1:], "line 0100\n"])
        written.write("after\n")
    assert log.read_text() == "after\n", "who has it open writes at its new end"
    log.write_text("x" * 5000)
    assert shorten(log, 1000) and older(log).stat().st_size <= 1000
    assert not shorten(tmp_path / "none.log", 1000)


def test_a_start_keeps_the_last_runs_log(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    begin_anew(log)
    assert list(tmp_path.iterdir()) == []
    for text in ("first\n", "second\n"):
        log.write_text(text)
        begin_anew(log)
    assert [path.name for path in tmp_path.iterdir()] == ["worker.log.1"]
    assert last_lines(older(log), 1) == ["second"] and last_lines(log, 1) == []


async def test_a_child_that_writes_without_end_is_bounded_and_not_disturbed(tmp_path: Path) -> None:
    """Each line is a number: no number is missing within a file, and later lines are kept."""
    log, written, max_bytes, num_lines = tmp_path / "child.log", tmp_path / "written", 20_000, 60_000
    code = f"""
import os, sys
for number in range({num_lines}):
    os.write(2, b"%d\\n" % number)
os.mkdir({str(written)!r})
while os.path.exists({str(written)!r}):
    os.sched_yield()
os.write(2, b"{num_lines}\\n")
"""
    child = await Child.start(ChildCommand(name="child", arguments=[sys.executable, "-c", code], log=log))
    num_shortened = 0
    while not written.exists():
        num_shortened += await asyncio.to_thread(shorten, log, max_bytes)
    assert num_shortened > 1
    # From here the log is not shortened while the child writes: a line between copying and truncating would be lost.
    written.rmdir()
    assert await child.wait() == 0
    shorten(log, max_bytes)
    for part in (older(log), log):
        numbers = [int(line) for line in part.read_text().splitlines()]
        gapless = list(range(numbers[0], numbers[0] + len(numbers))) if numbers else []
        # Lines before the last one may have been lost to the last shortening.
        assert numbers[:-1] == gapless[:-1]
    last = (last_lines(log, 1) or last_lines(older(log), 1))[0]
    assert last == str(num_lines)


async def test_a_log_that_cannot_be_shortened_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOOK_INTERVAL_S", 0.0)
    log, said, tries = tmp_path / "worker.log", list[str](), 0
    enough = asyncio.Event()

    def full(path: Path, max_bytes: int) -> bool:
        nonlocal tries
        tries += 1
        if tries > 3:
            loop.call_soon_threadsafe(enough.set)
        raise OSError(28, "No space left on device")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(logs, "shorten", full)
    bounding = asyncio.create_task(keep_bounded([log], 10, said.append))
    await enough.wait()
    await end_tasks(bounding)
    assert said == [f"The log {log} could not be shortened: No space left on device."]


@pytest.mark.parametrize("size", ["20 loaves", "-1", ""])
def test_a_size_that_is_none(size: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "--home", str(tmp_path), "--log-size", size])
    assert result.exit_code == 2 and "size" in result.output
