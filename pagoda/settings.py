"""What the settings of all tiers have in common: where values come from, and what a wrong one leads to.

A value is taken from the command line (`--kv-memory 1GiB`), else from the environment (`PAGODA_WORKER_KV_MEMORY`), else
from the class. A tier subclasses `TierSettings` with its `env_prefix`, and only its `__main__` calls `load`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from pagoda.logging import LogFormat, LogLevel
from pagoda.tracing import check_otlp_endpoint, default_otlp_endpoint


def default_home() -> Path:
    """PAGODA_HOME, or ~/.pagoda: models, sockets, logs and state."""
    return Path(os.environ.get("PAGODA_HOME") or Path.home() / ".pagoda").expanduser()


class TierSettings(BaseSettings):
    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    home: Path = Field(default_factory=default_home)
    """Where models, sockets, logs and state live. Every tier also reads it from PAGODA_HOME."""
    log_level: LogLevel = "info"
    """The least severe log lines to write."""
    log_format: LogFormat = "text"
    """Log lines for people, or one JSON object per line."""
    otlp_endpoint: str = Field(default_factory=default_otlp_endpoint)
    """Where traces go: an OTLP receiver for gRPC, such as http://127.0.0.1:4317. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else off."""

    @field_validator("otlp_endpoint")
    @classmethod
    def _can_be_sent_to(cls, value: str) -> str:
        return check_otlp_endpoint(value)

    @classmethod
    def load(cls, arguments: Sequence[str] | None = None) -> Self:
        """Read command line and environment; end the process with status 2 and the reasons if a value is wrong."""
        arguments = sys.argv[1:] if arguments is None else arguments
        try:
            cls._refuse_unknown_environment()
            return cls(_cli_parse_args=list(arguments), _cli_prog_name=_program_name(cls))
        except ValidationError as error:
            problems = [_sentence(cls, problem) for problem in error.errors(include_url=False)]
        except SettingsError as error:
            problems = [str(error)]
        print("\n".join(problems), file=sys.stderr)
        raise SystemExit(2)

    def described(self) -> dict[str, str]:
        """The values as they apply, for the log line at the start. Secrets are masked by their type."""
        return {name: str(getattr(self, name)) for name in type(self).model_fields}

    @classmethod
    def _refuse_unknown_environment(cls) -> None:
        """A misspelt variable is as wrong as a misspelt flag; pydantic-settings only looks for names it knows."""
        prefix = cls.model_config.get("env_prefix", "").upper()
        known = {prefix + name.upper() for name in cls.model_fields}
        unknown = sorted(
            name for name in os.environ if prefix and name.upper().startswith(prefix) and name.upper() not in known
        )
        if unknown:
            raise SettingsError(
                f"unknown setting {unknown[0]} in the environment; known are: {', '.join(sorted(known))}"
            )


def _program_name(settings: type[TierSettings]) -> str:
    return f"pagoda {settings.__module__.partition('.')[0]}"


def _sentence(settings: type[TierSettings], problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if not name:
        return str(problem["msg"]).removeprefix("Value error, ")
    variable = settings.model_config.get("env_prefix", "").upper() + name.upper()
    message = str(problem["msg"]).removeprefix("Value error, ")
    # A secret that is refused must not reach the terminal, so the value is not repeated.
    return f"--{name.replace('_', '-')} (or {variable}): {message}"
