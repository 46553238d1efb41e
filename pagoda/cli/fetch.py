"""Pulls a model and shows what happens: a bar over all files on a terminal, else lines."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.status import Status
from rich.table import Column
from rich.text import Text

from pagoda.cli import human
from pagoda.cli.text_check import check_text
from pagoda.models.chat_template_choice import choose_chat_template
from pagoda.models.errors import ChatTemplateChoiceError
from pagoda.models.model import Model
from pagoda.models.names import is_path, parse_name
from pagoda.models.pull import open_puller
from pagoda.models.sources.progress import Progress, Stage
from pagoda.models.stored_settings import read_settings

OnProgress = Callable[[Progress], None]
# Width of the bar, the bytes and the speed, and least width of the words before them.
_OTHER_COLUMNS, _SHORTEST_WORDS = 40, 20
# A commit at the end of a source, and the part of it that is shown.
_COMMIT = re.compile(r"@([0-9a-f]{12})[0-9a-f]{28}$")


def fetch_model(home: Path, name_or_path: str, *, newest: bool = False, insecure: bool = False) -> Model:
    """Return the model, pulled if it is not on this machine, with `newest` also if its source has a newer version.

    Raises ModelError if it is unknown, damaged, not usable or not available.
    """
    puller = open_puller(home, check_text)
    fetch = puller.pull if newest and not is_path(name_or_path) else puller.ensure
    with progress_display(_label(name_or_path), f"Stopped. To resume: pagoda pull {name_or_path}") as on_progress:
        stages: set[Stage] = set()

        def show(progress: Progress) -> None:
            stages.add(progress.stage)
            on_progress(progress)

        model = fetch(name_or_path, show, insecure=insecure)
    if Stage.DOWNLOADING in stages and (reason := _why_no_chat(model)):
        print(f"Warning: {model.name} completes texts, but cannot chat: {reason}", file=sys.stderr)
    return model


def _why_no_chat(model: Model) -> str:
    try:
        choice = choose_chat_template(model, read_settings(model))
    except ChatTemplateChoiceError as error:
        return str(error)
    return "it has no chat template" if choice.text is None else ""


def _label(name: str) -> str:
    """Return a name for the display, which is shorter than the address of a page."""
    return str(parse_name(name)) if "://" in name else name


@contextmanager
def progress_display(name: str, after_interrupt: str) -> Iterator[OnProgress]:
    """Yield a function that shows the progress of a pull. After Ctrl-C during a download, print `after_interrupt`."""
    console = Console(stderr=True)
    display = _TerminalDisplay(console, name) if console.is_terminal else _LineDisplay(console, name)
    try:
        yield display.show
    except KeyboardInterrupt:
        display.close()
        if display.is_downloading:
            print(f"\n{after_interrupt}", file=sys.stderr)
        raise
    finally:
        display.close()


class _Display:
    """The base of both displays: the words for each stage, and the warnings."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._num_files = 1
        self._verb, self._origin = "downloading", ""
        self.is_downloading = False
        self._was_downloaded = False

    def show(self, progress: Progress) -> None:
        if progress.remote is not None:
            self._num_files = len(progress.remote.files)
            if progress.remote.is_cached:
                self._verb, self._origin = "reading", " from the hub's cache"
            for warning in progress.remote.warnings:
                self._print(f"Warning: {warning}")
        self.is_downloading = progress.stage is Stage.DOWNLOADING
        if self.is_downloading:
            self._was_downloaded = True
            files = f" {self._num_files} files" if self._num_files > 1 else ""
            self._show_download(f"{self._name}: {self._verb}{files}{self._origin}", progress)
        elif progress.stage is not Stage.DONE:
            self._show_stage(f"{self._name}: {progress.stage}", progress)
        elif not self._was_downloaded:
            self._print(f"{self._name}: up to date")

    def close(self) -> None:
        """End the display. What it shows last stays on the screen."""

    def _print(self, line: str) -> None:
        # Without emoji, because rich reads the tag in `model:key: checking` as the name of one.
        self._console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _show_download(self, words: str, progress: Progress) -> None:
        raise NotImplementedError

    def _show_stage(self, words: str, progress: Progress) -> None:
        raise NotImplementedError


class _TerminalDisplay(_Display):
    """A bar for the download, and a line with a spinner for each other stage."""

    def __init__(self, console: Console, name: str) -> None:
        super().__init__(console, name)
        self._status: Status | None = None
        self._bars: Bars | None = None
        self._task = TaskID(0)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
        if self._bars is not None:
            self._bars.stop()
        self._status = self._bars = None

    def _show_stage(self, words: str, progress: Progress) -> None:
        if self._status is None:
            self.close()
            self._status = self._console.status(Text(words))
            self._status.start()
        self._status.update(Text(words))

    def _show_download(self, words: str, progress: Progress) -> None:
        if self._bars is None:
            self.close()
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(table_column=Column(no_wrap=True)),
                TransferSpeedColumn(table_column=Column(no_wrap=True)),
            )
            self._bars = Bars(*columns, console=self._console)
            self._bars.start()
            room = max(self._console.width - _OTHER_COLUMNS, _SHORTEST_WORDS)
            shown = words if len(words) <= room else f"…{words[1 - room :]}"
            # Bytes of an earlier attempt must not count towards the speed of this one.
            self._task = self._bars.add_task(shown, total=progress.total_bytes, completed=progress.completed_bytes)
        self._bars.update(self._task, completed=progress.completed_bytes, total=progress.total_bytes)


class _LineDisplay(_Display):
    """A line per stage, and per quarter of the download."""

    def __init__(self, console: Console, name: str) -> None:
        super().__init__(console, name)
        self._shown: set[str] = set()

    def _show_stage(self, words: str, progress: Progress) -> None:
        if progress.stage is not Stage.RESOLVING:
            source = "" if progress.remote is None else _COMMIT.sub(r"@\1", progress.remote.source)
            self._print_once(f"{words} {source}".rstrip())

    def _show_download(self, words: str, progress: Progress) -> None:
        quarter = 4 * progress.completed_bytes // max(progress.total_bytes, 1)
        self._print_once(f"{words}, {25 * quarter}% of {human.size(progress.total_bytes)}")

    def _print_once(self, line: str) -> None:
        if line not in self._shown:
            self._shown.add(line)
            self._print(line)
