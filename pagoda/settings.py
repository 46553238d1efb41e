"""What the settings of all tiers have in common: where values come from, and what a wrong one leads to.

A value is taken from the command line (`--kv-memory 1GiB`), else from the environment (`PAGODA_WORKER_KV_MEMORY`), else
from the class. A tier subclasses `TierSettings` with its `env_prefix`, and only its `__main__` calls `load`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from pagoda.process.logging import LogFormat, LogLevel
from pagoda.rpc.cluster_tokens import ClusterTokenError, ClusterTokens, Role
from pagoda.rpc.sockets import ForeignDirectoryError, default_home
from pagoda.rpc.transport_security import TransportSecurity, check_authority, check_pair, check_readable
from pagoda.telemetry.otlp_endpoint import check_otlp_endpoint, default_otlp_endpoint

SHARED_TLS_VARIABLES = ("PAGODA_TLS_CERT", "PAGODA_TLS_KEY", "PAGODA_TLS_CA", "PAGODA_TLS_SERVER_NAME")
"""One set for all tiers; a tier's own, such as PAGODA_WORKER_TLS_CERT, goes before."""
SHARED_TOKEN_VARIABLES = ("PAGODA_CLUSTER_TOKEN", "PAGODA_CLUSTER_TOKEN_FILE")
"""For all tiers, likewise. The token itself has no flag: every user of the machine can read a command line."""


def shared_file(variable: str) -> Path | None:
    return Path(value).expanduser() if (value := os.environ.get(variable)) else None


class TierSettings(BaseSettings):
    role: ClassVar[Role | None] = None
    """As what it comes to schedulers."""
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
    tls_cert: Path | None = Field(default_factory=lambda: shared_file("PAGODA_TLS_CERT"))
    """The certificate shown to other tiers (not to HTTP clients), a PEM file. Every tier also reads PAGODA_TLS_CERT."""
    tls_key: Path | None = Field(default_factory=lambda: shared_file("PAGODA_TLS_KEY"))
    """The certificate's key, without a passphrase. Every tier also reads PAGODA_TLS_KEY."""
    tls_ca: Path | None = Field(default_factory=lambda: shared_file("PAGODA_TLS_CA"))
    """Who signs other tiers' certificates. A scheduler that is told demands them. Every tier also reads PAGODA_TLS_CA."""
    tls_server_name: str = Field(default_factory=lambda: os.environ.get("PAGODA_TLS_SERVER_NAME", ""))
    """What a scheduler's certificate must name. Default: the host in its address. Every tier also reads PAGODA_TLS_SERVER_NAME."""
    cluster_token_file: str = Field(default_factory=lambda: os.environ.get("PAGODA_CLUSTER_TOKEN_FILE", ""))
    """The file with this tier's cluster token; a scheduler's files, separated by commas, have those of gateways, workers, clients.
    Read again when it changes. Every tier also reads PAGODA_CLUSTER_TOKEN_FILE, or tokens themselves from PAGODA_CLUSTER_TOKEN.
    Default: HOME/cluster-token, within this machine."""
    plaintext: bool = False
    """Speak to other tiers in clear text beyond this machine, where the network itself keeps others out."""

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
        """What it was told; None where that is nothing."""
        return ClusterTokens.told(self.cluster_token_file)

    def check_dialling(self, addresses: Sequence[str]) -> None:
        """Of a tier that dials others: whether it may, and will know them."""
        if self.tls_cert is not None and self.tls_ca is None:
            raise ValueError(
                "--tls-cert is shown to schedulers, who must be known too: set --tls-ca to who signed theirs"
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
                    f"--cluster-token-file (or PAGODA_CLUSTER_TOKEN): no token there is a {self.role}'s, which begins with "
                    f"{self.role}-, or with no role at all"
                )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together: set both, or neither")
        if self.tls_cert is not None and self.tls_key is not None:
            check_pair(self.tls_cert, self.tls_key)
        if self.plaintext and (self.tls_cert or self.tls_ca):
            raise ValueError(
                "--plaintext asks for clear text, and --tls-cert or --tls-ca for TLS: leave one of them out"
            )
        return self

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
        _refuse_unknown(prefix, {prefix + name.upper() for name in cls.model_fields})
        _refuse_unknown("PAGODA_TLS_", set(SHARED_TLS_VARIABLES))
        _refuse_unknown("PAGODA_CLUSTER_", set(SHARED_TOKEN_VARIABLES))


def _refuse_unknown(prefix: str, known: set[str]) -> None:
    unknown = sorted(
        name for name in os.environ if prefix and name.upper().startswith(prefix) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]} in the environment; known are: {', '.join(sorted(known))}")


def listed(value: str) -> tuple[str, ...]:
    """What a setting names between commas."""
    return tuple(filter(None, (part.strip() for part in value.split(","))))


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
