"""Log-probabilities of one token, and their protobuf form."""

from dataclasses import dataclass

from protos.v1 import types_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """The raw log-probability of a token, and (id, logprob) of the most probable ones, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]

    def to_proto(self) -> types_pb2.Logprobs:
        top = [types_pb2.TokenLogprob(token_id=token_id, logprob=logprob) for token_id, logprob in self.top]
        return types_pb2.Logprobs(logprob=self.logprob, top=top)

    @classmethod
    def from_proto(cls, message: types_pb2.Logprobs) -> "TokenLogprobs":
        return cls(logprob=message.logprob, top=tuple((each.token_id, each.logprob) for each in message.top))
