"""The settings of a worker, read once in __main__."""

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

DEFAULT_NUMERICS = {"cpu": "integer", "cuda": "bfloat16", "hip": "bfloat16"}
"""The default numerics mode, by device."""


class WorkerSettings(TierSettings):
    model_config = SettingsConfigDict(env_prefix="PAGODA_WORKER_")
    role = Role.WORKER

    model: str = DEFAULT_MODEL
    """The model to serve: a name in the catalogue, or the path of a GGUF file or safetensors directory. In a comma-separated
    list, the first model is loaded at start; the others, and those of the store, are loaded when requested."""
    start_empty: bool = False
    """Start without a model, and load one when it is requested."""
    scheduler: str = ""
    """Addresses of the schedulers, separated by commas; workers spread over them. Default: unix:HOME/run/scheduler.sock."""
    spread_interval_s: float = Field(default=10.0, ge=0)
    """Interval, in seconds, at which the worker checks whether to move to a scheduler that has at least two workers fewer for
    its model; 0 disables the check."""
    worker_id: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", min_length=1)
    """The worker's name in logs and metrics; unique among a scheduler's workers. Default: host name and process id."""
    device: Literal["cpu", "cuda", "hip"] = "cpu"
    """The device that computes: the processor (cpu), an NVIDIA GPU (cuda) or an AMD GPU (hip)."""
    numerics: Literal["integer", "float32", "bfloat16"] | None = None
    """The numerics mode. integer: the same tokens in any batch; bfloat16: fast on GPUs; float32: the reference implementation.
    Default: integer on a processor, bfloat16 on a GPU."""
    kv_dtype: Literal["int16", "int8"] | None = None
    """The format of cached keys and values in the integer mode. int8 halves their memory and the time to read them, at some cost
    in accuracy. Default: int16."""
    native_kernels: bool = True
    """Run the integer mode in native code, compiled at the first start. It gives the same tokens, faster."""
    threads: int = Field(default_factory=usable_cores, ge=1)
    """Number of threads that compute. Default: one for each core that this process may use."""
    kv_memory: ByteSize | None = Field(default=None, gt=0)
    """Memory for keys and values, such as 512MiB. On a processor it is taken as it is used. Default: a quarter of the memory that
    is available beside the weights, on a processor at most 4 GB or a tenth of it, and enough for one sequence of full length if
    half of it is."""
    packed_cache: ByteSize = Field(default=ByteSize(20_000_000_000), ge=0)
    """Maximum size of the packed weights kept below HOME/packed, so that a second start of a model is faster; 0 keeps none."""
    workers_on_machine: int = Field(default=1, ge=1)
    """Number of workers that share this machine's memory. The default of `kv_memory` is divided among them."""
    check_memory: bool = True
    """Refuse to load a model that needs more memory than is available."""
    progress_file: Path | None = None
    """File to which the worker writes how many bytes of its model it has loaded, for the program that started it."""
    page_size: int = Field(default=16, ge=1, le=256)
    """Number of tokens in a page."""
    max_model_len: int | None = Field(default=None, ge=2)
    """Maximum length of a sequence, prompt and output, in tokens. Default: the model's own maximum."""
    max_step_tokens: int = Field(default=512, ge=1)
    """Maximum number of tokens that one step computes."""
    max_step_sequences: int = Field(default=64, ge=1)
    """Maximum number of sequences that one step computes."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """Time after SIGTERM, in seconds, in which the worker's sequences may finish or move to other workers."""

    @property
    def numerics_in_use(self) -> str:
        return self.numerics or DEFAULT_NUMERICS[self.device]

    @property
    def models(self) -> tuple[str, ...]:
        return listed(self.model)

    @property
    def scheduler_addresses(self) -> tuple[str, ...]:
        return listed(self.scheduler) or (scheduler_address(self.home),)

    @property
    def native_directory(self) -> Path | None:
        """Directory of the compiled native kernels; None if `native_kernels` is off."""
        return self.home / "state" / "kernels" if self.native_kernels else None

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, value: str) -> str:
        if not listed(value):
            raise ValueError(f"names no model (got {value!r}); name at least one model, such as {DEFAULT_MODEL}")
        return value

    @field_validator("scheduler")
    @classmethod
    def _names_a_scheduler(cls, value: str) -> str:
        if value and not value.replace(",", " ").strip():
            raise ValueError(
                f"names no scheduler (got {value!r}); name at least one scheduler, such as 127.0.0.1:50051,"
                " or leave it empty for the one below HOME"
            )
        return value

    @model_validator(mode="after")
    def _is_not_overheard(self) -> Self:
        self.check_dialling(self.scheduler_addresses)
        return self
