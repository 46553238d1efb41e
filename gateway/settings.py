"""The settings of the gateway, read once in __main__."""

from pathlib import Path
from typing import Self

from pydantic import ByteSize, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from gateway.http.bounded_connection import HTTPLimits
from kvcache.index_url import MEMORY, check_index_url
from pagoda.api_keys.key_settings import KeySettings
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.sampling_defaults import SamplingDefaultsMode
from pagoda.rpc.cluster_tokens import Role
from pagoda.rpc.sockets import is_loopback, scheduler_address
from pagoda.settings import listed


class GatewaySettings(KeySettings):
    model_config = SettingsConfigDict(env_prefix="PAGODA_GATEWAY_")
    role = Role.GATEWAY

    model: str = DEFAULT_MODEL
    """The models to serve besides those of the store, separated by commas: names, or paths of GGUF files or safetensors
    directories. A model that is not on this machine is fetched without its weights, into HOME/headers."""
    chat_template: Path | None = None
    """A file with a chat template in Jinja that replaces the one of the model. Only for a server of one model."""
    scheduler: str = ""
    """gRPC addresses of the schedulers, `unix:/path.sock` or `host:port`, separated by commas. Requests go to the best one, and
    move to another one when it is lost. Default: unix:HOME/run/scheduler.sock."""
    host: str = "127.0.0.1"
    """The address to listen on. An address other than loopback needs API keys."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port to listen on."""
    ollama_port: int = Field(default=11434, ge=0, le=65535)
    """A second port, on 127.0.0.1, where Ollama's clients look by default; skipped if it is in use. 0 disables it."""
    allowed_origins: str = ""
    """Web origins whose pages may use this server besides those of this machine, separated by commas; `*` matches any text."""
    allowed_hosts: str = ""
    """Host names by which a server on loopback may be addressed besides local ones, separated by commas."""
    max_body_bytes: ByteSize = Field(default=ByteSize(8 * 1024 * 1024), gt=0)
    """Maximum size of a request body."""
    trust_request_chat_template: bool = False
    """Accept chat templates in requests from keys without the scope `admin`. A template is code that runs on this server."""
    max_body_values: int = Field(default=800_000, ge=1000)
    """Maximum number of values in a JSON body. A number counts as 1, a string or key as 8, an array or object as 40. A longer
    window needs more."""
    max_header_bytes: ByteSize = Field(default=ByteSize(64 * 1024), ge=1024)
    """Maximum size of a request's line and headers; longer ones get status 431."""
    header_timeout_s: float = Field(default=30.0, gt=0)
    """Time for a request's headers to arrive, in seconds. A new connection without a request is closed after it."""
    body_timeout_s: float = Field(default=60.0, gt=0)
    """Time for a body to arrive, in seconds. For a longer body, at least 16 KiB must arrive in each such period."""
    write_timeout_s: float = Field(default=300.0, gt=0)
    """Time, in seconds, after which a client that reads nothing of its answer is disconnected."""
    keep_alive_timeout_s: float = Field(default=120.0, gt=0)
    """Time that a connection stays open between two requests, in seconds; set it longer than that of the proxies in front."""
    max_connections: int = Field(default=4096, ge=1)
    """Maximum number of connections, within the limit of open files. Beyond it the connection that was idle longest is closed;
    if none is idle, a new connection gets status 503."""
    max_connections_per_address: int | None = Field(default=None, ge=1)
    """Maximum number of connections per client address. Default: no limit, because a proxy has one address for all clients."""
    comment_interval_s: float = Field(default=15.0, gt=0)
    """Time without a token, in seconds, after which an event stream gets a comment, to keep proxies from closing it."""
    pull_on_demand: bool = False
    """Pull a model that a request for text names and that is not here: of the Hugging Face hub or of Ollama's library. Keys need no
    scope `admin` for it, and pulled models fill the disk. The workers must share this gateway's HOME."""
    strict_fields: bool = False
    """Refuse requests with fields that their API does not have, instead of listing these in X-Pagoda-Ignored."""
    sampling_defaults: SamplingDefaultsMode = "model"
    """Source of the sampling parameters that a request omits: the catalogue and the model's files (`model`), or the API's
    documented defaults (`neutral`). A Modelfile's parameters apply in both cases."""
    default_max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Maximum number of tokens of an answer if neither the request nor the Modelfile sets a limit. Default: the model's
    recommendation, or else the rest of its window."""
    request_timeout_s: float | None = Field(default=None, gt=0)
    """Maximum time of a request, including the queue, in seconds; longer ones get status 504. Default: no limit."""
    scheduler_grace_s: float = Field(default=60.0, ge=0)
    """Time, in seconds, that requests wait for a lost or restarting scheduler and its workers, to resume after their last token."""
    scheduler_silence_s: float = Field(default=5.0, gt=0)
    """Time without an answer, in seconds, after which a scheduler is treated as lost even if its connection is open."""
    prefix_index: SecretStr = SecretStr(MEMORY)
    """The prefix index, which guides the choice among schedulers: the URL to which they publish cached prefixes, such as
    redis://HOST:PORT, or `memory` for the prefixes that this gateway has sent."""
    response_store: SecretStr = SecretStr(MEMORY)
    """The store of responses of /v1/responses: `memory` of this gateway, or a URL such as redis://HOST:PORT, which several gateways
    can share."""
    response_store_ttl_s: float = Field(default=86_400.0, gt=0)
    """Time after its last use, in seconds, for which a response is stored."""
    response_store_max_entries: int = Field(default=10_000, ge=1)
    """Maximum number of stored responses. Beyond it, the least recently used ones are removed."""
    response_store_max_bytes: ByteSize = Field(default=ByteSize(256 * 1024 * 1024), gt=0)
    """Maximum size of all stored responses."""
    drain_delay_s: float = Field(default=0.0, ge=0)
    """Time after SIGTERM, in seconds, in which /ready returns 503 and requests are still accepted, for load balancers to notice."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """Time after `drain_delay_s`, in seconds, in which open streams may finish."""

    @property
    def models(self) -> list[str]:
        return list(listed(self.model))

    @property
    def http_limits(self) -> HTTPLimits:
        return HTTPLimits(
            max_header_bytes=self.max_header_bytes,
            header_timeout_s=self.header_timeout_s,
            body_timeout_s=self.body_timeout_s,
            write_timeout_s=self.write_timeout_s,
            max_connections=self.max_connections,
            max_connections_per_address=self.max_connections_per_address,
        )

    @property
    def is_on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def scheduler_addresses(self) -> tuple[str, ...]:
        return listed(self.scheduler) or (scheduler_address(self.home),)

    @property
    def origins(self) -> list[str]:
        return list(listed(self.allowed_origins))

    @property
    def hosts(self) -> list[str]:
        return list(listed(self.allowed_hosts))

    @field_validator("scheduler")
    @classmethod
    def _names_each_scheduler_once(cls, value: str) -> str:
        addresses = listed(value)
        if value and not addresses:
            raise ValueError(
                f"names no scheduler (got {value!r}); name at least one scheduler, such as 127.0.0.1:50051,"
                " or leave it empty for the one below HOME"
            )
        if twice := sorted(address for address in set(addresses) if addresses.count(address) > 1):
            raise ValueError(f"names {twice[0]} twice; name each scheduler once")
        return value

    @field_validator("prefix_index", "response_store")
    @classmethod
    def _is_an_index(cls, value: SecretStr) -> SecretStr:
        check_index_url(value.get_secret_value())
        return value

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, value: str) -> str:
        if not listed(value):
            raise ValueError(f"names no model (got {value!r}); name at least one model, such as {DEFAULT_MODEL}")
        return value

    @model_validator(mode="after")
    def _has_one_model_for_the_template(self) -> Self:
        if self.chat_template is not None and len(listed(self.model)) > 1:
            raise ValueError(
                f"chat_template replaces the template of one model, and this server has several (got {self.model!r}); write the "
                "template into a Modelfile as TEMPLATE, then: pagoda create NAME"
            )
        return self

    @model_validator(mode="after")
    def _is_not_overheard(self) -> Self:
        self.check_dialling(self.scheduler_addresses)
        return self

    @model_validator(mode="after")
    def _open_to_others_only_with_a_key(self) -> Self:
        if not self.is_on_loopback and not self._has_keys():
            raise ValueError(
                f"refusing to listen on {self.host} without an API key, because anyone who can reach it could use the model; "
                "create a key with `pagoda key create NAME`, or set PAGODA_GATEWAY_API_KEY, or keep --host 127.0.0.1 and put "
                "a reverse proxy in front"
            )
        return self

    def _has_keys(self) -> bool:
        """Return True if a key or a keys file is configured. A keys file without keys is refused later in the start."""
        return self.api_key is not None or bool(self.listed_keys) or self.keys_path.exists()
