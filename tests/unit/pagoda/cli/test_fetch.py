"""The display of a pull: lines, a bar over all files, warnings, and what Ctrl-C leaves."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from pagoda.cli import fetch
from pagoda.cli.fetch import progress_display
from pagoda.models.sources.progress import Progress, Stage
from pagoda.models.sources.remote import RemoteFile, RemoteModel

REMOTE = RemoteModel(
    name="Org/Repo",
    source=f"hf.co/Org/Repo@{'c0ffee' * 6}abcd",
    version="c0ffee",
    files=tuple(RemoteFile(path=f"model-{number}.safetensors", url="http://x", size_bytes=50) for number in (1, 2)),
    root="",
    warnings=("The projector of this model is not used [yet].",),
)
STEPS = [
    Progress(stage=Stage.RESOLVING, completed_bytes=0, total_bytes=0),
    Progress(stage=Stage.CHECKING, completed_bytes=0, total_bytes=100, remote=REMOTE),
    *(Progress(stage=Stage.DOWNLOADING, completed_bytes=each, total_bytes=100) for each in (0, 10, 60, 100)),
    Progress(stage=Stage.VERIFYING, completed_bytes=100, total_bytes=100),
    Progress(stage=Stage.DONE, completed_bytes=100, total_bytes=100),
]


def shown(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Progress],
    *,
    is_terminal: bool,
    name: str = "Org/Repo",
    width: int = 120,
) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=is_terminal, color_system=None, width=width)
    monkeypatch.setattr(fetch, "Console", lambda stderr: console)
    with progress_display(name, "Stopped.") as on_progress:
        for step in steps:
            on_progress(step)
    return output.getvalue()


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, STEPS, is_terminal=False).splitlines() == [
        "Warning: The projector of this model is not used [yet].",
        "Org/Repo: checking hf.co/Org/Repo@c0ffeec0ffee",
        "Org/Repo: downloading 2 files, 0% of 100 B",
        "Org/Repo: downloading 2 files, 50% of 100 B",
        "Org/Repo: downloading 2 files, 100% of 100 B",
        "Org/Repo: verifying sha256",
    ]


def test_one_bar_over_all_files_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = shown(monkeypatch, STEPS, is_terminal=True)
    for words in ("Org/Repo: pulling manifest", "Org/Repo: checking", "Org/Repo: verifying sha256"):
        assert words in written
    assert "Warning: The projector of this model is not used [yet].\n" in written.replace("\r", "")
    last_bar = [line for line in written.split("\n") if "downloading 2 files" in line][-1]
    assert "100/100 bytes" in last_bar


def test_files_in_the_hubs_cache_are_not_called_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(REMOTE, is_cached=True, warnings=())
    steps = [replace(step, remote=here) if step.remote else step for step in STEPS]
    lines = shown(monkeypatch, steps, is_terminal=False).splitlines()
    assert lines[1] == "Org/Repo: reading 2 files from the hub's cache, 0% of 100 B"
    assert not any("downloading" in line for line in lines)


def test_files_in_wheels_have_no_addresses_and_are_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = replace(REMOTE, files=tuple(replace(file, url="") for file in REMOTE.files))
    steps = [replace(step, remote=wheels) if step.remote else step for step in STEPS]
    lines = shown(monkeypatch, steps, is_terminal=False).splitlines()
    assert "Org/Repo: downloading 2 files, 0% of 100 B" in lines
    assert not any("cache" in line for line in lines)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_model_that_is_up_to_date_says_so(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    written = shown(monkeypatch, [STEPS[0], STEPS[-1]], is_terminal=is_terminal)
    assert "Org/Repo: up to date\n" in written.replace("\r", "")
    assert "downloading" not in written
    assert "up to date" not in shown(monkeypatch, STEPS[:1], is_terminal=is_terminal)  # the source was not reached


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_tag_that_is_the_name_of_an_emoji_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    written = shown(monkeypatch, STEPS, is_terminal=is_terminal, name="model:x")
    for words in ("checking", "downloading", "verifying sha256"):
        assert f"model:x: {words}" in written


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_long_name_leaves_the_bar_in_one_line(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    name = "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q5_K_M"
    larger = [
        replace(step, completed_bytes=99 * step.completed_bytes, total_bytes=99 * step.total_bytes) for step in STEPS
    ]
    written = shown(monkeypatch, larger, is_terminal=True, name=name, width=width)
    last_bar = [line for line in written.split("\n") if "9.9/9.9 kB" in line][-1]
    assert "downloading 2 files" in last_bar and ("Q5_K_M: " in last_bar or width == 60)
    assert ("bartowski/" in last_bar) is (width == 200)


@pytest.mark.parametrize(("num_steps", "words"), [(1, ""), (4, "\nStopped.\n"), (7, "")])
def test_ctrl_c_during_a_download_says_how_to_resume_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], num_steps: int, words: str
) -> None:
    class Interrupted(list[Progress]):
        def __iter__(self):  # type: ignore[no-untyped-def]  # as the base class
            yield from super().__iter__()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shown(monkeypatch, Interrupted(STEPS[:num_steps]), is_terminal=False)
    assert capsys.readouterr().err == words
