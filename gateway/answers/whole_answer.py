"""The whole answer of a sample, assembled from the parts of its stream."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart


@dataclass(slots=True)
class WholeCall:
    """A tool call. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class WholeAnswer:
    """The answer so far: its text, its reasoning and its calls."""

    calls: list[WholeCall] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def add_parts(self, parts: Iterable[AnswerPart]) -> None:
        """Add the next parts. The arguments of a call follow its beginning."""
        for part in parts:
            match part:
                case ContentPart():
                    self._texts.append(part.text)
                case ReasoningPart():
                    self._reasoning.append(part.text)
                case CallBegan():
                    self.calls.append(WholeCall(part.id, part.name))
                case CallArguments():
                    self.calls[part.index].arguments += part.text
