"""What a chat has said so far, and how the next answer is asked for.

Knows nothing about terminals and servers.
"""

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]


@dataclass(slots=True, eq=False)
class Conversation:
    model: str
    system: str = ""
    """In place of the model's own system message."""
    options: dict[str, Any] = field(default_factory=dict)
    """What `/set parameter` has set, as Ollama's `options`."""
    messages: list[Message] = field(default_factory=list)
    """User and assistant in turn."""

    def asking(self, text: str) -> list[Message]:
        """The messages of the request that asks `text` next; nothing is remembered yet."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages, {"role": "user", "content": text}]

    def remember(self, text: str, answer: str) -> None:
        """A question and as much of its answer as was seen. Without any answer there was no question either: templates
        want the two to take turns."""
        if answer:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]

    def clear(self) -> None:
        self.messages.clear()
