"""Shows how far the workers have come in loading their models: a bar for each on a terminal, else a line from time to time."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from pagoda.cli import human
from pagoda.process.progress_file import read_progress

POLL_S = 0.1
LINE_INTERVAL_S = 5.0
"""Time between two lines about one model. A model that loads faster has no line."""


class LoadingDisplay:
    """The progress of models, by file. Start `run` as a task, and call `close` when the models are loaded."""

    def __init__(
        self, models: Mapping[Path, str], console: Console | None = None, line_interval_s: float = LINE_INTERVAL_S
    ) -> None:
        self._models = models
        self._console = console or Console(stderr=True)
        self._bars = _make_bars(self._console) if self._console.is_terminal else None
        self._tasks: dict[Path, TaskID] = {}
        self._line_interval_s = line_interval_s
        self._next_line_s = dict.fromkeys(models, time.monotonic() + line_interval_s)
        for path in models:
            path.unlink(missing_ok=True)

    async def run(self) -> None:
        """Show the progress until cancelled."""
        if self._bars is not None:
            self._bars.start()
        try:
            while True:
                self.update()
                await asyncio.sleep(POLL_S)
        finally:
            self.close()

    def close(self) -> None:
        """End the display. Bars disappear, because the banner follows."""
        if self._bars is not None:
            self._bars.stop()

    def update(self) -> None:
        for path, model in self._models.items():
            progress = read_progress(path)
            if progress is None:
                continue
            if self._bars is not None:
                self._show_bar(self._bars, path, model, *progress)
            else:
                self._show_line(path, model, *progress)

    def _show_bar(self, bars: Bars, path: Path, model: str, completed: int, total: int) -> None:
        if path not in self._tasks:
            self._tasks[path] = bars.add_task(f"loading {model}", total=total)
        bars.update(self._tasks[path], completed=completed, total=total)

    def _show_line(self, path: Path, model: str, completed: int, total: int) -> None:
        now_s = time.monotonic()
        if completed < total and now_s >= self._next_line_s[path]:
            self._next_line_s[path] = now_s + self._line_interval_s
            line = f"Loading {model}: {100 * completed // total}% of {human.size(total)}"
            self._console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _make_bars(console: Console) -> Bars:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(table_column=Column(no_wrap=True)),
    )
    return Bars(*columns, console=console, transient=True)
