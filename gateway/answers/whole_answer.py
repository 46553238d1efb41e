"""The whole answer of a sample, assembled from the parts of its stream."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart


@dataclass(frozen=True, slots=True)
class WholeCall:
    """A tool call. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class WholeAnswer:
    """The answer so far: its text, its reasoning and its calls. Pieces are joined when they are read."""

    _texts: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _begun: list[CallBegan] = field(default_factory=list)
    _arguments: list[list[str]] = field(default_factory=list)
    """The pieces of the arguments of each call."""

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def calls(self) -> list[WholeCall]:
        return [
            WholeCall(begun.id, begun.name, "".join(pieces))
            for begun, pieces in zip(self._begun, self._arguments, strict=True)
        ]

    def add_parts(self, parts: Iterable[AnswerPart]) -> None:
        """Add the next parts. The arguments of a call follow its beginning."""
        for part in parts:
            match part:
                case ContentPart():
                    self._texts.append(part.text)
                case ReasoningPart():
                    self._reasoning.append(part.text)
                case CallBegan():
                    self._begun.append(part)
                    self._arguments.append([])
                case CallArguments():
                    self._arguments[part.index].append(part.text)
