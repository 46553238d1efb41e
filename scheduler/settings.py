"""The scheduler's settings, read once in __main__."""

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
    """Where clients and workers connect: `host:port` or `unix:/path.sock`. Default: unix:HOME/run/scheduler.sock."""
    tls_roles: str = ""
    """Whose a certificate is that --tls-ca demands: ROLE=NAME between commas, such as worker=*.workers.example, where ROLE is
    gateway, worker, client or any. Default: one that is named worker, worker.…, worker-… or spiffe://…/worker is a worker's."""
    max_waiting: int = Field(default=4096, ge=1)
    """Sequences that may wait; one more request is refused with a retry delay."""
    max_waiting_per_tenant: int = Field(default=1024, ge=1)
    """Sequences of one tenant that may wait."""
    worker_grace_s: float = Field(default=60.0, ge=0)
    """How long accepted requests wait for a worker when none is left."""
    heartbeat_s: float = Field(default=1.0, gt=0)
    """How often a worker says that it lives."""
    # A worker beats twice as often as it is asked to, so eight beats in a row are missing by then. On two cores that four processes
    # fight for, one is kept waiting for tenths of a second. And an alarm that was false costs no answer: the worker comes back
    # at once, and what it computed is computed again, mostly from the cache.
    silence_s: float = Field(default=4.0, gt=0)
    """A worker that says nothing for this long is lost."""
    step_time_multiple: float = Field(default=10.0, ge=1)
    """A worker that lives but takes so many times as long for a step as such steps took, and at least silence_s, is lost."""
    stalled_step_s: float = Field(default=120.0, gt=0)
    """The longest time for a step, also for the first ones, of which nobody knows how long they take."""
    max_lease_steps: int = Field(default=8, ge=1)
    """How many decode steps a worker may go on by itself while nobody waits; 1 plans each step."""
    max_num_partial_prefills: int = Field(default=8, ge=1)
    """Prompts that a worker may have computed in part at the same time; 1 computes one after the other, whatever their lengths."""
    max_long_partial_prefills: int = Field(default=3, ge=1)
    """The long ones among them: a long prompt passes those under way only if it has less than a quarter of their tokens."""
    long_prefill_token_threshold: int = Field(default=0, ge=0)
    """A prompt with more tokens than this to compute is long. Short ones pass long ones, and their last step holds little else.
    Default (0): a 32nd of what a step may compute, at least 64."""
    routing: Literal["prefix", "least-loaded", "round-robin"] = "prefix"
    """Which worker a sequence goes to: where its prefix is, weighed against load, or without looking at prefixes."""
    keep_alive: str = "-1"
    """How long a model stays in memory once nobody uses it, such as 5m, unless a request says otherwise. Default: for ever."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """How long running requests may go on after SIGTERM."""

    prefix_index: SecretStr = SecretStr(MEMORY)
    """Where schedulers and gateways share which worker holds which prefix: `memory`, or a URL such as redis://HOST:PORT."""
    advertise: str = ""
    """The address under which gateways reach this scheduler, as the prefix index names it. Default: where it listens."""

    @field_validator("prefix_index")
    @classmethod
    def _is_an_index(cls, value: SecretStr) -> SecretStr:
        check_index_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _is_not_overheard(self) -> Self:
        if self.tls_ca is not None and self.tls_cert is None:
            raise ValueError(
                "--tls-ca demands certificates of clients, which needs TLS: set --tls-cert and --tls-key too"
            )
        self.security.check_listening(self.address)
        return self

    @field_validator("tls_roles")
    @classmethod
    def _names_roles(cls, value: str) -> str:
        CertificateRoles.parse(value)
        return value

    @property
    def certificate_roles(self) -> CertificateRoles | None:
        """None where no certificates are demanded."""
        return (
            None
            if self.tls_ca is None or unix_path(self.address) is not None
            else CertificateRoles.parse(self.tls_roles)
        )

    @property
    def believed_tokens(self) -> ClusterTokens | None:
        """Those it was told of; else that of its home, unless certificates are demanded."""
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
            routing=POLICIES[self.routing],
        )

    @property
    def advertised_address(self) -> str:
        host, _, port = self.address.rpartition(":")
        # Listening everywhere is no place to be reached at.
        everywhere = host in ("0.0.0.0", "[::]")
        return self.advertise or (f"{socket.gethostname()}:{port}" if everywhere else self.address)

    @property
    def address(self) -> str:
        return self.listen or scheduler_address(self.home)
