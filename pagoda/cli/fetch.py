"""Fetches a model unless it is on this machine, and shows the progress: a bar on a terminal, else lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from pagoda.cli.banner import size
from pagoda.models.model import Model
from pagoda.models.pull import open_puller
from pagoda.models.sources.progress import Progress, Stage

OnProgress = Callable[[Progress], None]


def fetch_model(home: Path, name_or_path: str) -> Model:
    """Return the model, fetched if it is missing. Raises ModelError if it is unknown, damaged or unavailable."""
    with progress_display(name_or_path) as on_progress:
        return open_puller(home).ensure(name_or_path, on_progress)


@contextmanager
def progress_display(name: str) -> Iterator[OnProgress]:
    console = Console(stderr=True)
    display = _bars if console.is_terminal else _lines
    with display(console, name) as on_progress:
        yield on_progress


@contextmanager
def _bars(console: Console, name: str) -> Iterator[OnProgress]:
    """Draw one bar per stage, each from its first report."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console) as bars:
        stages: dict[Stage, TaskID] = {}

        def on_progress(progress: Progress) -> None:
            if progress.stage is Stage.DONE:
                return
            if progress.stage not in stages:
                # Bytes of an earlier attempt must not count towards the speed of this one.
                stages[progress.stage] = bars.add_task(
                    f"{name}: {progress.stage}", total=progress.total_bytes, completed=progress.completed_bytes
                )
            bars.update(stages[progress.stage], completed=progress.completed_bytes, total=progress.total_bytes)

        yield on_progress


@contextmanager
def _lines(console: Console, name: str) -> Iterator[OnProgress]:
    """Print a line per stage and quarter."""
    shown: set[tuple[Stage, int]] = set()

    def on_progress(progress: Progress) -> None:
        quarter = 4 * progress.completed_bytes // max(progress.total_bytes, 1)
        if progress.stage is not Stage.DONE and (progress.stage, quarter) not in shown:
            shown.add((progress.stage, quarter))
            share = f"{25 * quarter}% of {size(progress.total_bytes)}"
            console.print(f"{name}: {progress.stage}, {share}", highlight=False, soft_wrap=True)

    yield on_progress
