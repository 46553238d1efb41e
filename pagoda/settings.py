"""The base class of all tiers' settings, which reads and validates their values.

A value comes from the command line (`--kv-memory 1GiB`), else from the environment (`PAGODA_WORKER_KV_MEMORY`), else from the
class. Each tier subclasses `TierSettings` with its `env_prefix`, and only its `__main__` calls `load`.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from pagoda.process.logging import LogFormat, LogLevel
from pagoda.rpc.cluster_tokens import ClusterTokenError, ClusterTokens, Role
from pagoda.rpc.sockets import ForeignDirectoryError, default_home
from pagoda.rpc.transport_security import TransportSecurity, check_authority, check_pair, check_readable
from pagoda.telemetry.otlp_endpoint import check_otlp_endpoint, default_otlp_endpoint
from pagoda.validation import describe_problem, suggest

SHARED_TLS_VARIABLES = ("PAGODA_TLS_CERT", "PAGODA_TLS_KEY", "PAGODA_TLS_CA", "PAGODA_TLS_SERVER_NAME")
"""Variables that all tiers read. A tier's own, such as PAGODA_WORKER_TLS_CERT, takes precedence."""
SHARED_TOKEN_VARIABLES = ("PAGODA_CLUSTER_TOKEN", "PAGODA_CLUSTER_TOKEN_FILE")
"""Variables that all tiers read. The token itself has no flag, because every user of the machine can read a command line."""


# Defaults that the help does not show, because they mean nothing to a user: functions, None, the empty string, masked secrets.
_UNREADABLE_DEFAULT = re.compile(r"\s*\(default( factory: [^)]*|: (None|null|\*+)?)\)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A formatter of `--help` that leaves out unreadable defaults, which the settings' texts describe instead."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = super()._get_help_string(action)
        return None if text is None else _UNREADABLE_DEFAULT.sub("", text)


def shared_file(variable: str) -> Path | None:
    return Path(value).expanduser() if (value := os.environ.get(variable)) else None


class TierSettings(BaseSettings):
    """Settings that all tiers have."""

    role: ClassVar[Role | None] = None
    """Role in which the tier calls schedulers."""
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
    """Directory of models, sockets, logs and state. Default: PAGODA_HOME, else ~/.pagoda."""
    log_level: LogLevel = "info"
    """Lowest severity of log lines to write."""
    log_format: LogFormat = "text"
    """Format of log lines: readable text, or one JSON object per line."""
    otlp_endpoint: str = Field(default_factory=default_otlp_endpoint)
    """OTLP receiver (gRPC) of traces, such as http://127.0.0.1:4317. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else no traces."""
    tls_cert: Path | None = Field(default_factory=lambda: shared_file("PAGODA_TLS_CERT"))
    """PEM file of the certificate for connections between tiers, not for HTTP clients. Every tier also reads PAGODA_TLS_CERT."""
    tls_key: Path | None = Field(default_factory=lambda: shared_file("PAGODA_TLS_KEY"))
    """PEM file of the certificate's private key, without a passphrase. Every tier also reads PAGODA_TLS_KEY."""
    tls_ca: Path | None = Field(default_factory=lambda: shared_file("PAGODA_TLS_CA"))
    """PEM file of the authority that signs other tiers' certificates. A scheduler with this setting requires a certificate of
    its callers. Every tier also reads PAGODA_TLS_CA."""
    tls_server_name: str = Field(default_factory=lambda: os.environ.get("PAGODA_TLS_SERVER_NAME", ""))
    """Name that a scheduler's certificate must have. Default: the host in its address. Every tier also reads
    PAGODA_TLS_SERVER_NAME."""
    cluster_token_file: str = Field(default_factory=lambda: os.environ.get("PAGODA_CLUSTER_TOKEN_FILE", ""))
    """File of this tier's cluster token. A scheduler takes several, separated by commas, with the tokens of gateways, workers and
    clients. Files are read again when they change. Every tier also reads PAGODA_CLUSTER_TOKEN_FILE, and tokens themselves from
    PAGODA_CLUSTER_TOKEN. Default: HOME/cluster-token, for connections within this machine."""
    plaintext: bool = False
    """Allow connections to tiers on other machines without TLS. Use it only if the network itself is protected."""

    @property
    def security(self) -> TransportSecurity:
        return TransportSecurity(
            certificate=self.tls_cert,
            key=self.tls_key,
            authority=self.tls_ca,
            server_name=self.tls_server_name,
            allows_plaintext=self.plaintext,
            tokens=self.cluster_tokens,
            home_tokens=ClusterTokens.of_home(self.home),
            role=self.role,
        )

    @property
    def cluster_tokens(self) -> ClusterTokens | None:
        """The configured tokens, or None if none are configured."""
        return ClusterTokens.told(self.cluster_token_file)

    def check_dialling(self, addresses: Sequence[str]) -> None:
        """Raise ValueError if this tier must not connect to one of the addresses, or could not verify the server there."""
        if self.tls_cert is not None and self.tls_ca is None:
            raise ValueError(
                "--tls-cert requires --tls-ca: set it to the authority that signed the schedulers' certificates"
            )
        for address in addresses:
            try:
                self.security.check_dialling(address)
            except ForeignDirectoryError as error:
                raise ValueError(str(error)) from None

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _can_be_read(cls, path: Path | None) -> Path | None:
        if path is not None:
            check_readable(path)
        return path

    @field_validator("tls_ca")
    @classmethod
    def _has_certificates(cls, path: Path | None) -> Path | None:
        if path is not None:
            check_authority(path)
        return path

    @model_validator(mode="after")
    def _has_its_token(self) -> Self:
        if (tokens := self.cluster_tokens) is not None:
            try:
                tokens.read()
            except ClusterTokenError as error:
                raise ValueError(f"--cluster-token-file (or PAGODA_CLUSTER_TOKEN): {error}") from None
            if self.role is not None and tokens.token_of(self.role) is None:
                raise ValueError(
                    f"--cluster-token-file (or PAGODA_CLUSTER_TOKEN) must have a token for a {self.role}: one that begins "
                    f"with '{self.role}-', or with no role"
                )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key must be set together")
        if self.tls_cert is not None and self.tls_key is not None:
            check_pair(self.tls_cert, self.tls_key)
        if self.plaintext and (self.tls_cert or self.tls_ca):
            raise ValueError("--plaintext cannot be combined with --tls-cert or --tls-ca")
        return self

    @field_validator("otlp_endpoint")
    @classmethod
    def _can_be_sent_to(cls, value: str) -> str:
        return check_otlp_endpoint(value)

    @classmethod
    def load(cls, arguments: Sequence[str] | None = None) -> Self:
        """Read command line and environment. If a value is wrong, print the reasons and exit with status 2."""
        arguments = sys.argv[1:] if arguments is None else arguments
        try:
            cls._refuse_unknown_environment()
            return cls(_cli_settings_source=_command_line(cls, arguments))
        except ValidationError as error:
            problems = [_sentence(cls, problem) for problem in error.errors(include_url=False)]
        except SettingsError as error:
            problems = [str(error)]
        print("\n".join(problems), file=sys.stderr)
        raise SystemExit(2)

    def described(self) -> dict[str, str]:
        """Return the values in effect, for the log line at the start. Secrets are masked by their type."""
        return {name: str(getattr(self, name)) for name in type(self).model_fields}

    @classmethod
    def _refuse_unknown_environment(cls) -> None:
        """Raise SettingsError for a misspelt variable. pydantic-settings itself ignores unknown names in the environment."""
        prefix = cls.model_config.get("env_prefix", "").upper()
        _refuse_unknown(prefix, {prefix + name.upper() for name in cls.model_fields})
        _refuse_unknown("PAGODA_TLS_", set(SHARED_TLS_VARIABLES))
        _refuse_unknown("PAGODA_CLUSTER_", set(SHARED_TOKEN_VARIABLES))


def _refuse_unknown(prefix: str, known: set[str]) -> None:
    unknown = sorted(
        name for name in os.environ if prefix and name.upper().startswith(prefix) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(f"unknown environment variable {unknown[0]}{suggest(unknown[0].upper(), known)}")


def listed(value: str) -> tuple[str, ...]:
    """Return the items of a comma-separated setting."""
    return tuple(filter(None, (part.strip() for part in value.split(","))))


def _command_line(settings: type[TierSettings], arguments: Sequence[str]) -> CliSettingsSource[argparse.ArgumentParser]:
    return CliSettingsSource(
        settings,
        cli_prog_name=f"pagoda {settings.__module__.partition('.')[0]}",
        cli_parse_args=list(arguments),
        formatter_class=HelpFormatter,
    )


def _sentence(settings: type[TierSettings], problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if not name:
        return str(problem["msg"]).removeprefix("Value error, ")
    variable = settings.model_config.get("env_prefix", "").upper() + name.upper()
    return f"--{name.replace('_', '-')} (or {variable}): {_message(settings, problem)}"


def _message(settings: type[TierSettings], problem: Any) -> str:
    """Return what is wrong with a value, and the value. A rejected secret must not reach the terminal."""
    field = settings.model_fields.get(str(problem["loc"][0]))
    is_secret = field is None or "SecretStr" in str(field.annotation)
    return describe_problem(problem, is_secret=is_secret)
