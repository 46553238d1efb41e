"""The progress of a pull, as its clients see it."""

import asyncio

import pytest

from gateway.models.pulls import Pull
from pagoda.models.model import Model
from pagoda.models.sources.progress import Progress, Stage
from tests.fakes.stepped_puller import downloading


def progress(stage: Stage, completed: int) -> Progress:
    return Progress(stage=stage, completed_bytes=completed, total_bytes=9)


@pytest.fixture
async def pull() -> Pull:
    """Return a pull that has ended: its clients see what is noted, and wait for no more."""
    task = asyncio.create_task(_fail())
    await asyncio.wait([task])
    return Pull(task)


async def _fail() -> Model:
    raise asyncio.CancelledError


async def test_a_slow_reader_sees_the_last_progress_of_each_stage(pull: Pull) -> None:
    watched = pull.watch_progress()
    pull.note_progress(progress(Stage.DOWNLOADING, 1))
    assert await anext(watched) == progress(Stage.DOWNLOADING, 1)
    for completed in (5, 9):
        pull.note_progress(progress(Stage.DOWNLOADING, completed))
    pull.note_progress(progress(Stage.VERIFYING, 0))
    pull.note_progress(None)
    assert [each async for each in watched] == [progress(Stage.DOWNLOADING, 9), progress(Stage.VERIFYING, 0)]


async def test_a_slow_reader_sees_the_last_progress_of_each_file(pull: Pull) -> None:
    watched = pull.watch_progress()
    for completed in (5, 100):
        for name in ("a", "b"):
            pull.note_progress(downloading(completed, name))
    pull.note_progress(None)
    assert [each async for each in watched] == [downloading(100, "a"), downloading(100, "b")]


async def test_progress_that_comes_while_a_client_is_served_is_not_lost(pull: Pull) -> None:
    watched = pull.watch_progress()
    pull.note_progress(progress(Stage.DOWNLOADING, 9))
    pull.note_progress(progress(Stage.VERIFYING, 0))
    assert await anext(watched) == progress(Stage.DOWNLOADING, 9)
    pull.note_progress(progress(Stage.VERIFYING, 9))
    pull.note_progress(None)
    assert [each async for each in watched][-1] == progress(Stage.VERIFYING, 9)
