"""Makes sure that a model is on this machine, and shows the download while it runs: a bar, or lines for a log.

Where models come from is the store's affair.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from pagoda.cli.banner import size
from pagoda.models.model import Model
from pagoda.models.store import ModelStore, Progress, Stage

OnProgress = Callable[[Progress], None]


def fetch_model(home: Path, name_or_path: str) -> Model:
    """At once if it is here; raises ModelError if it is unknown, damaged, or not to be had."""
    with progress_display(name_or_path) as on_progress:
        return ModelStore(home).pull(name_or_path, on_progress)


@contextmanager
def progress_display(name: str) -> Iterator[OnProgress]:
    console = Console(stderr=True)
    display = _bars if console.is_terminal else _lines
    with display(console, name) as on_progress:
        yield on_progress


@contextmanager
def _bars(console: Console, name: str) -> Iterator[OnProgress]:
    """One bar per stage. Nothing is drawn as long as nothing is reported."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console) as bars:
        stages: dict[Stage, TaskID] = {}

        def on_progress(progress: Progress) -> None:
            if progress.stage is Stage.DONE:
                return
            if progress.stage not in stages:
                # What an earlier attempt left here says nothing about the speed of this one.
                stages[progress.stage] = bars.add_task(
                    f"{name}: {progress.stage}", total=progress.total_bytes, completed=progress.completed_bytes
                )
            bars.update(stages[progress.stage], completed=progress.completed_bytes, total=progress.total_bytes)

        yield on_progress


@contextmanager
def _lines(console: Console, name: str) -> Iterator[OnProgress]:
    """A line per stage and quarter."""
    shown: set[tuple[Stage, int]] = set()

    def on_progress(progress: Progress) -> None:
        quarter = 4 * progress.completed_bytes // max(progress.total_bytes, 1)
        if progress.stage is not Stage.DONE and (progress.stage, quarter) not in shown:
            shown.add((progress.stage, quarter))
            share = f"{25 * quarter} % of {size(progress.total_bytes)}"
            console.print(f"{name}: {progress.stage}, {share}", highlight=False, soft_wrap=True)

    yield on_progress
