"""The models that a worker can load, as sent to the scheduler, and their protobuf form."""

from dataclasses import dataclass

from protos.v1 import worker_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadableModel:
    """Facts about a model that are known before it is loaded."""

    name: str
    digest: str
    page_size: int
    max_model_len: int
    vocab_size: int
    needed_bytes: int

    def to_proto(self) -> worker_pb2.LoadableModel:
        return worker_pb2.LoadableModel(
            name=self.name,
            digest=self.digest,
            page_size=self.page_size,
            max_model_len=self.max_model_len,
            vocab_size=self.vocab_size,
            needed_bytes=self.needed_bytes,
        )

    @classmethod
    def from_proto(cls, message: worker_pb2.LoadableModel) -> "LoadableModel":
        return cls(
            name=message.name,
            digest=message.digest,
            page_size=message.page_size,
            max_model_len=message.max_model_len,
            vocab_size=message.vocab_size,
            needed_bytes=message.needed_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadableModels:
    """The models that a worker can load, and the host whose memory they use."""

    models: tuple[LoadableModel, ...] = ()
    host_id: str = ""
    """Id of the host. Workers with the same one share its memory."""
    available_bytes: int | None = None
    """Free memory of the host. None if it is unknown until a model is loaded."""
    home_model: str | None = None
    """Model that the worker started with, if any."""
    checks_memory: bool = False
    """True if the worker refuses models that need more memory than is available."""

    def to_proto(self) -> worker_pb2.LoadableModels:
        return worker_pb2.LoadableModels(
            models=[model.to_proto() for model in self.models],
            host_id=self.host_id,
            available_bytes=self.available_bytes,
            home_model=self.home_model or "",
            checks_memory=self.checks_memory,
        )

    @classmethod
    def from_proto(cls, message: worker_pb2.LoadableModels) -> "LoadableModels":
        return cls(
            models=tuple(map(LoadableModel.from_proto, message.models)),
            host_id=message.host_id,
            available_bytes=message.available_bytes if message.HasField("available_bytes") else None,
            home_model=message.home_model or None,
            checks_memory=message.checks_memory,
        )
