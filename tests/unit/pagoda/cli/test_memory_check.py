"""`pagoda serve` refuses models for which the machine has too little memory, before it starts anything."""

from pathlib import Path

import pytest

from pagoda.cli.failure import CommandError
from pagoda.cli.memory_check import check_memory
from pagoda.cli.tiers import ServeOptions, tier_commands
from pagoda.models.formats.description import describe
from pagoda.models.model import Model
from pagoda.process.memory import AvailableMemory
from tests.fakes.tiny_model import write_tiny_gguf

LITTLE, MUCH = AvailableMemory(400_000_000), AvailableMemory(8_000_000_000)


@pytest.fixture
def models(tmp_path: Path) -> list[Model]:
    return [describe("tiny", write_tiny_gguf(tmp_path / "tiny.gguf"), digest="", size_bytes=0)]


def options(**values: object) -> ServeOptions:
    given = {"models": ("tiny",), "host": "127.0.0.1", "port": 8000, "home": Path("/h")} | values
    return ServeOptions(**given)  # type: ignore[arg-type]  # the tests' shorthand


def test_too_little_memory_is_refused_with_a_way_out(models: list[Model]) -> None:
    with pytest.raises(CommandError, match=r"tiny needs about .*400 MB are available.*--no-check-memory"):
        check_memory(options(), models, LITTLE)
    check_memory(options(), models, MUCH)


def test_each_worker_counts(models: list[Model]) -> None:
    check_memory(options(), models, AvailableMemory(700_000_000))
    with pytest.raises(CommandError, match=r"3 workers need about .*--workers"):
        check_memory(options(num_workers=3), models, AvailableMemory(700_000_000))


@pytest.mark.parametrize("values", [{"check_memory": False}, {"device": "cuda"}])
def test_nothing_is_checked_if_it_is_off_or_for_a_gpu(models: list[Model], values: dict[str, object]) -> None:
    check_memory(options(**values), models, LITTLE)


def test_a_malformed_size_is_left_to_the_worker(models: list[Model]) -> None:
    check_memory(options(kv_memory="lots"), models, MUCH)


def test_workers_learn_that_the_check_is_off() -> None:
    def flags(**values: object) -> list[str]:
        return [word for command in tier_commands(options(**values)) for word in command.arguments]

    assert "--no-check-memory" in flags(check_memory=False)
    assert "--no-check-memory" not in flags()
