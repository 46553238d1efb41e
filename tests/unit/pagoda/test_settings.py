"""Sources of settings, and the message and status 2 for a wrong one."""

import json
import logging
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import ByteSize, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from pagoda.process.logging import JSONFormatter, TextFormatter
from pagoda.settings import TierSettings


class StoreySettings(TierSettings):
    model_config = SettingsConfigDict(env_prefix="PAGODA_STOREY_")
    kv_memory: ByteSize | None = None
    max_sequences: int = 8
    api_key: SecretStr | None = None
    eager: bool = False


def test_flag_beats_environment_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGODA_STOREY_MAX_SEQUENCES", "3")
    monkeypatch.setenv("PAGODA_STOREY_KV_MEMORY", "512MiB")
    settings = StoreySettings.load(["--max-sequences", "5", "--eager"])
    assert (settings.max_sequences, settings.kv_memory, settings.eager) == (5, 512 * 1024 * 1024, True)


def test_home_is_shared_by_all_tiers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    assert StoreySettings.load([]).home == tmp_path
    assert StoreySettings.load(["--home", "/elsewhere"]).home == Path("/elsewhere")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--max-sequences", "many"],
            ("--max-sequences", "PAGODA_STOREY_MAX_SEQUENCES", "must be an integer (got 'many')"),
        ),
        (["--kv-memory", "lots"], ("--kv-memory", "must be a size such as 512MiB (got 'lots')")),
        (["--kv-memory", "2parsecs"], ("--kv-memory", "must be a size such as 512MiB (got '2parsecs')")),
        (["--log-level", "loud"], ("--log-level", "'debug'")),
        (["--no-such-flag", "1"], ("no-such-flag",)),
    ],
)
def test_a_wrong_value_is_a_sentence(
    arguments: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        StoreySettings.load(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert all(word in error for word in words)
    assert "Traceback" not in error


def test_a_wrong_secret_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Strict(StoreySettings):
        password: Annotated[SecretStr, Field(min_length=9)] = SecretStr("long enough")

    with pytest.raises(SystemExit):
        Strict.load(["--password", "sesame"])
    error = capsys.readouterr().err
    assert error.startswith("--password (or PAGODA_STOREY_PASSWORD): ") and "sesame" not in error


def test_help_shows_only_readable_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        StoreySettings.load(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "(default: 8)" in shown and "(default: info)" in shown
    assert not any(word in shown for word in ("factory", "lambda", "None)", "(default: )"))


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PAGODA_STOREY_KV_MEMRY", "1GiB")
    with pytest.raises(SystemExit):
        StoreySettings.load([])
    assert "unknown environment variable PAGODA_STOREY_KV_MEMRY" in capsys.readouterr().err


def test_secrets_are_not_described() -> None:
    described = StoreySettings.load(["--api-key", "sesame"]).described()
    assert "sesame" not in str(described)
    assert described["max_sequences"] == "8"


def record(**fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "scheduler.loop", "levelname": "INFO", "msg": "worker lost", "created": 0.0, **fields}
    )


def test_a_text_line_carries_the_fields() -> None:
    line = TextFormatter().format(record(worker="w 1", pages=512, wait_s=0.25))
    assert line == '1970-01-01T00:00:00.000Z INFO scheduler.loop worker lost worker="w 1" pages=512 wait_s=0.25'


def test_a_json_line_carries_the_fields() -> None:
    entry = json.loads(JSONFormatter().format(record(worker="w1")))
    assert entry == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "INFO",
        "logger": "scheduler.loop",
        "message": "worker lost",
        "worker": "w1",
    }
