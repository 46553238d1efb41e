"""What a worker can be told, read once in __main__."""

import os
import socket
from pathlib import Path
from typing import Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.process.resources import usable_cores
from pagoda.rpc.cluster_tokens import Role
from pagoda.rpc.sockets import scheduler_address
from pagoda.settings import TierSettings, listed


class WorkerSettings(TierSettings):
    model_config = SettingsConfigDict(env_prefix="PAGODA_WORKER_")
    role = Role.WORKER

    model: str = DEFAULT_MODEL
    """The model to serve: a name of the catalogue, or the path of a GGUF file or safetensors directory. Of several, separated by
    commas, the first is loaded at the start; the others, and those of the store, when somebody asks for them."""
    start_empty: bool = False
    """Begin without a model in memory, and load what somebody asks for."""
    scheduler: str = ""
    """Where schedulers listen, separated by commas: workers spread over them. Default: unix:HOME/run/scheduler.sock."""
    spread_interval_s: float = Field(default=10.0, ge=0)
    """How often it looks whether another scheduler has at least two workers fewer for its model, to go there. 0 is never."""
    worker_id: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", min_length=1)
    """The worker's name in logs and metrics, unique among a scheduler's workers."""
    device: Literal["cpu", "cuda", "hip"] = "cpu"
    """What computes: the processor, an NVIDIA GPU, or an AMD GPU."""
    numerics: Literal["integer", "float32", "bfloat16"] | None = None
    """How numbers are computed: integer gives the same tokens whoever shares the batch, bfloat16 is what GPUs are made for,
    float32 is the plain reference. Default: integer on a processor, bfloat16 on a GPU."""
    kv_dtype: Literal["int16", "int8"] | None = None
    """What keys and values are kept in, in the integer mode: int8 takes half the memory and time to read, and costs some
    accuracy. Default: int16."""
    native_kernels: bool = True
    """Compute the integer mode in native code, compiled at the first start. It gives the same tokens as without, sooner."""
    threads: int = Field(default_factory=usable_cores, ge=1)
    """Threads that compute. Default: one for each core that this process may use."""
    kv_memory: ByteSize | None = Field(default=None, gt=0)
    """Memory for keys and values, such as 512MiB. Default: 64 full sequences' worth, but at most a quarter of what is free."""
    page_size: int = Field(default=16, ge=1, le=256)
    """Tokens in a page."""
    max_model_len: int | None = Field(default=None, ge=2)
    """The longest sequence, prompt and output, in tokens. Default: what the model was made for."""
    max_step_tokens: int = Field(default=512, ge=1)
    """Most tokens that one step may compute."""
    max_step_sequences: int = Field(default=64, ge=1)
    """Most sequences that one step may compute."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """How long its sequences may move to other workers or go on here after SIGTERM."""

    @property
    def models(self) -> tuple[str, ...]:
        return listed(self.model)

    @property
    def scheduler_addresses(self) -> tuple[str, ...]:
        return listed(self.scheduler) or (scheduler_address(self.home),)

    @property
    def native_directory(self) -> Path | None:
        """Where native kernels are kept, if they are wanted."""
        return self.home / "state" / "kernels" if self.native_kernels else None

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, value: str) -> str:
        if not listed(value):
            raise ValueError(f"name at least one model, such as {DEFAULT_MODEL}")
        return value

    @field_validator("scheduler")
    @classmethod
    def _names_a_scheduler(cls, value: str) -> str:
        if value and not value.replace(",", " ").strip():
            raise ValueError("name at least one scheduler, such as 127.0.0.1:50051, or none for the one under HOME")
        return value

    @model_validator(mode="after")
    def _is_not_overheard(self) -> Self:
        self.check_dialling(self.scheduler_addresses)
        return self
