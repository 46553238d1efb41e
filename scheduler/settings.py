"""The scheduler's settings, read once in __main__."""

import math
import socket
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from kvcache.index_url import MEMORY, check_index_url
from pagoda.api_keys.key_settings import KeySettings
from pagoda.durations import parse_setting
from pagoda.rpc.certificate_roles import CertificateRoles
from pagoda.rpc.cluster_tokens import ClusterTokens
from pagoda.rpc.sockets import scheduler_address, unix_path
from scheduler.policy import SchedulingPolicy
from scheduler.routing.router import POLICIES
from scheduler.steps.step_decision import PrefillLimits


class SchedulerSettings(KeySettings):
    model_config = SettingsConfigDict(env_prefix="PAGODA_SCHEDULER_")

    listen: str = ""
    """Address to listen on for clients and workers: `host:port` or `unix:/path.sock`. Default: unix:HOME/run/scheduler.sock."""
    tls_roles: str = ""
    """Roles of the certificates that --tls-ca demands, as ROLE=NAME separated by commas, such as worker=*.workers.example. ROLE is
    gateway, worker, client or any. Default: a certificate has the role worker if its name is worker, worker.…, worker-… or
    spiffe://…/worker, and likewise for the other roles."""
    max_waiting: int = Field(default=4096, ge=1)
    """Maximum number of waiting sequences. A request that would exceed it is refused with a retry delay."""
    max_waiting_per_tenant: int = Field(default=1024, ge=1)
    """Maximum number of waiting sequences of one tenant."""
    worker_grace_s: float = Field(default=60.0, ge=0)
    """Seconds that accepted requests wait for a worker if none is left."""
    heartbeat_s: float = Field(default=1.0, gt=0)
    """Longest time between two heartbeats of a worker, in seconds."""
    # A worker sends heartbeats twice as often as asked, so eight in a row are missing by then. When four processes share two
    # cores, a process may wait for tenths of a second. A false alarm loses no answer: the worker attaches again immediately and
    # computes its sequences again, mostly from its cache.
    silence_s: float = Field(default=4.0, gt=0)
    """Seconds of silence after which a worker is lost."""
    step_time_multiple: float = Field(default=10.0, ge=1)
    """Factor by which a step may exceed the time of similar steps. A worker that exceeds both this and silence_s is lost."""
    stalled_step_s: float = Field(default=120.0, gt=0)
    """Longest time for any step, in seconds; also the limit for the first steps, whose duration cannot be predicted."""
    max_lease_steps: int = Field(default=8, ge=1)
    """Maximum number of decode steps that a worker runs by itself while no request waits; 1 plans each step."""
    max_num_partial_prefills: int = Field(default=8, ge=1)
    """Maximum number of partly computed prompts per worker; 1 computes prompts one after another, regardless of their lengths."""
    max_long_partial_prefills: int = Field(default=3, ge=1)
    """Maximum number of partly computed long prompts per worker. A long prompt passes others only if it has less than a quarter of
    their tokens."""
    long_prefill_token_threshold: int = Field(default=0, ge=0)
    """Number of tokens to compute above which a prompt is long. Short prompts pass long ones, and their last step computes little
    else. 0 means a 32nd of the tokens of a step, at least 64."""
    routing: Literal["prefix", "least-loaded", "round-robin"] = "prefix"
    """Policy that chooses the worker of a sequence: by cached prefixes and load, by load alone, or in turn."""
    keep_alive: str = "-1"
    """Time that an unused model stays in memory, such as 5m, unless a request says otherwise; -1 means forever."""
    prefix_idle_s: float = Field(default=600.0, ge=0)
    """Seconds after which a cached prefix that no request has used is dropped and the memory of its pages is returned to the
    worker's machine; 0 means never, and then no memory of pages is returned. Applies to workers that compute on processors."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """Seconds that running requests may continue after SIGTERM."""

    prefix_index: SecretStr = SecretStr(MEMORY)
    """Prefix index that schedulers and gateways share: `memory` (this process only), or a URL such as redis://HOST:PORT."""
    advertise: str = ""
    """Address of this scheduler for gateways, as published in the prefix index. Default: the address it listens on."""

    @field_validator("prefix_index")
    @classmethod
    def _is_an_index(cls, value: SecretStr) -> SecretStr:
        check_index_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _is_not_overheard(self) -> Self:
        if self.tls_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-ca demands client certificates, which need TLS: set --tls-cert and --tls-key too")
        self.security.check_listening(self.address)
        return self

    @field_validator("tls_roles")
    @classmethod
    def _names_roles(cls, value: str) -> str:
        CertificateRoles.parse(value)
        return value

    @property
    def certificate_roles(self) -> CertificateRoles | None:
        """Roles of client certificates. None if no certificates are demanded."""
        return (
            None
            if self.tls_ca is None or unix_path(self.address) is not None
            else CertificateRoles.parse(self.tls_roles)
        )

    @property
    def believed_tokens(self) -> ClusterTokens | None:
        """Accepted cluster tokens: the configured ones, else that of the home directory. None if only certificates count."""
        if self.cluster_tokens is not None or self.certificate_roles is not None:
            return self.cluster_tokens
        return ClusterTokens.of_home(self.home)

    @field_validator("keep_alive")
    @classmethod
    def _is_a_duration(cls, value: str) -> str:
        parse_setting(value)
        return value

    @property
    def policy(self) -> SchedulingPolicy:
        return SchedulingPolicy(
            max_waiting=self.max_waiting,
            max_waiting_per_tenant=self.max_waiting_per_tenant,
            worker_grace_s=self.worker_grace_s,
            max_lease_steps=self.max_lease_steps,
            prefill_limits=PrefillLimits(
                max_num_partial=self.max_num_partial_prefills,
                max_long_partial=self.max_long_partial_prefills,
                long_token_threshold=self.long_prefill_token_threshold,
            ),
            keep_alive_s=parse_setting(self.keep_alive),
            prefix_idle_s=self.prefix_idle_s or math.inf,
            routing=POLICIES[self.routing],
        )

    @property
    def advertised_address(self) -> str:
        host, _, port = self.address.rpartition(":")
        # A wildcard address is not one that others can connect to.
        everywhere = host in ("0.0.0.0", "[::]")
        return self.advertise or (f"{socket.gethostname()}:{port}" if everywhere else self.address)

    @property
    def address(self) -> str:
        return self.listen or scheduler_address(self.home)
