"""The scheduler's settings, read once in __main__."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pagoda.settings import TierSettings
from pagoda.sockets import scheduler_address


class SchedulerSettings(TierSettings):
    model_config = SettingsConfigDict(env_prefix="PAGODA_SCHEDULER_")

    listen: str = ""
    """Where clients and workers connect: `host:port` or `unix:/path.sock`. Default: unix:HOME/run/scheduler.sock."""
    max_waiting: int = Field(default=1024, ge=1)
    """Sequences that may wait; one more request is refused with a retry delay."""
    worker_grace_s: float = Field(default=60.0, ge=0)
    """How long accepted requests wait for a worker when none is left."""
    heartbeat_s: float = Field(default=1.0, gt=0)
    """How often a worker says that it lives."""
    silence_s: float = Field(default=10.0, gt=0)
    """A worker that says nothing for this long is lost."""
    stalled_step_s: float = Field(default=120.0, gt=0)
    """A worker that lives but finishes no step for this long is lost."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """How long running requests may go on after SIGTERM."""

    @property
    def address(self) -> str:
        return self.listen or scheduler_address(self.home)
