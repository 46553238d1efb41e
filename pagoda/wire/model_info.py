"""A model that a scheduler serves, and its protobuf form."""

from dataclasses import dataclass

from pagoda.wire.load_progress import LoadProgress
from protos.v1 import inference_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that a scheduler serves."""

    name: str
    digest: str
    max_model_len: int
    num_workers: int
    """Number of workers that have the model loaded."""
    num_unloaded_workers: int
    """Number of workers that would load the model for the next request."""
    device: str
    expires_in_s: float | None
    """Time until the model is unloaded if no request comes, in seconds. None for never."""
    page_size: int
    """Number of tokens in a block of a prefix."""
    loading: LoadProgress | None = None
    """Progress of a worker that loads the model. None if none does."""

    @property
    def is_served(self) -> bool:
        return self.num_workers + self.num_unloaded_workers > 0

    def to_proto(self) -> inference_pb2.ModelInfo:
        return inference_pb2.ModelInfo(
            name=self.name,
            digest=self.digest,
            max_model_len=self.max_model_len,
            num_workers=self.num_workers,
            num_unloaded_workers=self.num_unloaded_workers,
            device=self.device,
            expires_in_s=self.expires_in_s,
            page_size=self.page_size,
            loading=None if self.loading is None else self.loading.to_proto(),
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.ModelInfo) -> "ModelInfo":
        return cls(
            name=message.name,
            digest=message.digest,
            max_model_len=message.max_model_len,
            num_workers=message.num_workers,
            num_unloaded_workers=message.num_unloaded_workers,
            device=message.device,
            expires_in_s=message.expires_in_s if message.HasField("expires_in_s") else None,
            page_size=message.page_size,
            loading=LoadProgress.from_proto(message.loading) if message.HasField("loading") else None,
        )
