"""A process tells its parent its progress through a file."""

from pathlib import Path

from pagoda.process.progress_file import read_progress, write_progress


def test_progress_arrives_and_its_end_is_always_written(tmp_path: Path) -> None:
    path = tmp_path / "worker.progress"
    assert read_progress(path) is None
    write = write_progress(path)
    write(1, 10)
    assert read_progress(path) == (1, 10)
    for completed in range(2, 11):
        write(completed, 10)
    assert read_progress(path) == (10, 10)


def test_a_file_that_cannot_be_written_or_read_is_ignored(tmp_path: Path) -> None:
    write_progress(tmp_path / "gone" / "worker.progress")(1, 10)
    (tmp_path / "odd").write_text("soon")
    assert read_progress(tmp_path / "odd") is None
