"""A rule for the output of a sample, and its protobuf form. protos/v1/types.proto defines what it means.

The gateway makes it, the scheduler passes it on, and the worker applies it.
"""

from dataclasses import dataclass

from protos.v1 import types_pb2

# Each step may bring a worker 256 sequences with grammars of their own, which then fill half of the largest message.
MAX_GRAMMAR_BYTES = 512 * 1024
MAX_TRIGGERS = 128
MAX_MARKER_BYTES = 256
MAX_CLOSING_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A text that structures the output. `token_id` is the single token that it is, if it is one."""

    text: bytes
    token_id: int | None = None

    def to_proto(self) -> types_pb2.Marker:
        return types_pb2.Marker(text=self.text, token_id=self.token_id)

    @classmethod
    def from_proto(cls, message: types_pb2.Marker) -> "Marker":
        return cls(text=message.text, token_id=message.token_id if message.HasField("token_id") else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """The reasoning before the answer."""

    open: Marker
    is_open: bool
    """True if the prompt has begun the reasoning."""
    close: Marker
    budget: int | None = None
    """Maximum number of tokens of the reasoning; None for no limit."""
    closing_token_ids: tuple[int, ...] = ()
    """Tokens that end the reasoning when its budget is used up."""

    def to_proto(self) -> types_pb2.Reasoning:
        return types_pb2.Reasoning(
            open=self.open.to_proto(),
            is_open=self.is_open,
            close=self.close.to_proto(),
            budget=self.budget,
            closing_token_ids=self.closing_token_ids,
        )

    @classmethod
    def from_proto(cls, message: types_pb2.Reasoning) -> "Reasoning":
        return cls(
            open=Marker.from_proto(message.open),
            is_open=message.is_open,
            close=Marker.from_proto(message.close),
            budget=message.budget if message.HasField("budget") else None,
            closing_token_ids=tuple(message.closing_token_ids),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A rule for the output: a grammar, a budget for the reasoning, or both."""

    grammar: str = ""
    """A grammar of llguidance; empty if the answer is free."""
    digest: bytes = b""
    """sha256 of the grammar; empty if that is empty."""
    reasoning: Reasoning | None = None
    triggers: tuple[Marker, ...] = ()
    """Texts that begin the grammar; empty if it applies to the whole answer."""
    triggers_in_reasoning: bool = False

    @property
    def grammar_name(self) -> str:
        """A short name of the grammar, which the logs of gateways and workers have in common. Empty without a grammar."""
        return self.digest.hex()[:16]

    @property
    def token_ids(self) -> list[int]:
        """All token ids that the constraint names."""
        markers = [*self.triggers, *((self.reasoning.open, self.reasoning.close) if self.reasoning else ())]
        named = [marker.token_id for marker in markers if marker.token_id is not None]
        return [*named, *self.reasoning.closing_token_ids] if self.reasoning else named

    def to_proto(self) -> types_pb2.Constraint:
        return types_pb2.Constraint(
            grammar=self.grammar,
            digest=self.digest,
            reasoning=self.reasoning.to_proto() if self.reasoning else None,
            triggers=[trigger.to_proto() for trigger in self.triggers],
            triggers_in_reasoning=self.triggers_in_reasoning,
        )

    @classmethod
    def from_proto(cls, message: types_pb2.Constraint) -> "Constraint":
        return cls(
            grammar=message.grammar,
            digest=message.digest,
            reasoning=Reasoning.from_proto(message.reasoning) if message.HasField("reasoning") else None,
            triggers=tuple(map(Marker.from_proto, message.triggers)),
            triggers_in_reasoning=message.triggers_in_reasoning,
        )
