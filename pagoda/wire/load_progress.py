"""The progress of loading a model, and its protobuf form."""

from dataclasses import dataclass

from protos.v1 import types_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    completed_bytes: int = 0
    total_bytes: int = 0
    """Size of the model's tensors in its files. 0 if it is not known yet."""

    def to_proto(self) -> types_pb2.LoadProgress:
        return types_pb2.LoadProgress(completed_bytes=self.completed_bytes, total_bytes=self.total_bytes)

    @classmethod
    def from_proto(cls, message: types_pb2.LoadProgress) -> "LoadProgress":
        return cls(completed_bytes=message.completed_bytes, total_bytes=message.total_bytes)
