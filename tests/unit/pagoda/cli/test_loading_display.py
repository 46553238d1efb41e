"""The progress of loading models: a bar on a terminal, else lines from time to time."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pagoda.cli.loading_display import LoadingDisplay


def display(path: Path, *, is_terminal: bool, line_interval_s: float = 0.0) -> tuple[LoadingDisplay, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=100)
    return LoadingDisplay({path: "tiny"}, console, line_interval_s), output


def test_lines_without_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "worker.progress"
    shown, output = display(path, is_terminal=False)
    shown.update()
    for completed in (25_000_000, 98_000_000):
        path.write_text(f"{completed} 98000000")
        shown.update()
    assert output.getvalue() == "Loading tiny: 25% of 98 MB\n"


def test_a_model_that_loads_fast_has_no_line(tmp_path: Path) -> None:
    path = tmp_path / "worker.progress"
    shown, output = display(path, is_terminal=False, line_interval_s=1000.0)
    path.write_text("1 2")
    shown.update()
    assert output.getvalue() == ""


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    path = tmp_path / "worker.progress"
    path.write_text("the progress of an earlier run")
    shown, output = display(path, is_terminal=True)
    assert not path.exists()
    path.write_text("49000000 98000000")
    shown.update()
    assert shown._bars is not None
    shown._bars.start()
    shown._bars.refresh()
    shown.close()
    assert "loading tiny" in output.getvalue() and "49.0/98.0 MB" in output.getvalue()
