"""What the gateway can be told, and which combinations it refuses."""

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
    """The models whose text is served beside those of the store, separated by commas: names of the catalogue, or paths of GGUF
    files or safetensors directories."""
    scheduler: str = ""
    """The schedulers' gRPC addresses, `unix:/path.sock` or `host:port`, separated by commas: requests go to the best and move to
    another one when it is lost. Default: unix:HOME/run/scheduler.sock."""
    host: str = "127.0.0.1"
    """The address to listen on. Other than loopback only with API keys."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port to listen on."""
    ollama_port: int = Field(default=11434, ge=0, le=65535)
    """Where Ollama's clients look by default: listened on too, on 127.0.0.1, when it is free. 0 is off."""
    allowed_origins: str = ""
    """Web origins, separated by commas, whose pages may use this server beside those of this machine; `*` stands for any text."""
    allowed_hosts: str = ""
    """Names, separated by commas, by which a server on loopback may be addressed beside local ones."""
    max_body_bytes: ByteSize = Field(default=ByteSize(8 * 1024 * 1024), gt=0)
    """Longer request bodies are refused."""
    trust_request_chat_template: bool = False
    """Allow a template in a request to keys without the scope `admin` too: each is code of whoever sends it."""
    max_body_values: int = Field(default=800_000, ge=1000)
    """JSON with more values is refused. A number counts as one, a string or key as 8, an array or object as 40. A window of
    more tokens needs more."""
    max_header_bytes: ByteSize = Field(default=ByteSize(64 * 1024), ge=1024)
    """Requests whose line and headers are longer end with status 431."""
    header_timeout_s: float = Field(default=30.0, gt=0)
    """How long a request's headers may take. A new connection without a request is closed after that."""
    body_timeout_s: float = Field(default=60.0, gt=0)
    """A body must be complete after that, or bring 16 KiB more in each such time."""
    write_timeout_s: float = Field(default=300.0, gt=0)
    """A client that reads nothing of its answer for so long is cut off."""
    keep_alive_timeout_s: float = Field(default=120.0, gt=0)
    """How long a connection stays open between two requests. Longer than the proxies in front keep theirs."""
    max_connections: int = Field(default=4096, ge=1)
    """Beyond that, and beyond what the limit of open files allows, the connection that was idle longest is closed; without one,
    new connections end with status 503."""
    max_connections_per_address: int | None = Field(default=None, ge=1)
    """Off by default, because all connections of a proxy come from one address."""
    comment_interval_s: float = Field(default=15.0, gt=0)
    """A stream of server-sent events that has no token for so long gets a comment, so that no proxy cuts it."""
    strict_fields: bool = False
    """Refuse requests that have a field which their API does not, in place of naming it in X-Pagoda-Ignored."""
    sampling_defaults: SamplingDefaultsMode = "model"
    """Whether what a request leaves open is as the catalogue or the model's files recommend (`model`), or as the API documents
    it (`neutral`). A Modelfile's parameters hold either way."""
    default_max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """The most tokens of an answer where neither the request nor the Modelfile names a limit. Default: what the model
    recommends, else the rest of its window."""
    request_timeout_s: float | None = Field(default=None, gt=0)
    """Requests that take longer, queue included, end with status 504. Default: no limit."""
    scheduler_grace_s: float = Field(default=60.0, ge=0)
    """How long requests wait for a scheduler that was lost or restarts, and for its workers, to go on where they had come to."""
    scheduler_silence_s: float = Field(default=5.0, gt=0)
    """A scheduler that answers nothing for about this long is lost, whatever its connection says."""
    prefix_index: SecretStr = SecretStr(MEMORY)
    """Where schedulers publish which worker holds which prefix, to choose among them: `memory` is what this gateway has sent
    where, or a URL such as redis://HOST:PORT."""
    drain_delay_s: float = Field(default=0.0, ge=0)
    """How long requests are still taken after SIGTERM, while /ready says 503: until every load balancer has seen that."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """How long open streams may go on after that."""

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
            raise ValueError("name at least one scheduler, such as 127.0.0.1:50051, or none for the one under HOME")
        if twice := sorted(address for address in set(addresses) if addresses.count(address) > 1):
            raise ValueError(f"{twice[0]} is named twice")
        return value

    @field_validator("prefix_index")
    @classmethod
    def _is_an_index(cls, value: SecretStr) -> SecretStr:
        check_index_url(value.get_secret_value())
        return value

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, value: str) -> str:
        if not listed(value):
            raise ValueError(f"name at least one model, such as {DEFAULT_MODEL}")
        return value

    @model_validator(mode="after")
    def _is_not_overheard(self) -> Self:
        self.check_dialling(self.scheduler_addresses)
        return self

    @model_validator(mode="after")
    def _open_to_others_only_with_a_key(self) -> Self:
        if not self.is_on_loopback and not self._has_keys():
            raise ValueError(
                f"refusing to listen on {self.host} without an API key, because anyone who reaches it could use the model: "
                "make one with pagoda key create NAME, or set PAGODA_GATEWAY_API_KEY, or keep --host 127.0.0.1 and put a "
                "reverse proxy in front"
            )
        return self

    def _has_keys(self) -> bool:
        """Return whether there is a key. A file may still turn out to list none, which ends the start as well."""
        return self.api_key is not None or bool(self.listed_keys) or self.keys_path.exists()
