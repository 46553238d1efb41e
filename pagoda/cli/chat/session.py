"""The state of a chat: its server, model and conversation. chat_loop.py reads what the user types."""

from dataclasses import dataclass, field, replace
from typing import Any

from pagoda.cli.chat.answer import Style, WordWrap, print_answer
from pagoda.cli.chat.connection import Connection, Servers
from pagoda.cli.chat.line_reader import PROMPT, LineReader

Message = dict[str, str]


@dataclass(slots=True, eq=False)
class Conversation:
    """The messages of a chat, and the settings for its next request."""

    model: str
    system: str = ""
    """System message that replaces the model's own. Empty if not set."""
    options: dict[str, Any] = field(default_factory=dict)
    """Parameters set by `/set parameter`, in the form of Ollama's `options`."""
    messages: list[Message] = field(default_factory=list)
    """Messages of user and assistant, alternating."""

    def asking(self, text: str) -> list[Message]:
        """Return the messages of a request with `text` as the next question. Does not add it to the conversation."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages, {"role": "user", "content": text}]

    def remember(self, text: str, answer: str) -> None:
        """Add a question and the printed part of its answer. Adds neither if the answer is empty, because roles must alternate."""
        if answer:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]

    def clear(self) -> None:
        self.messages.clear()


class Session:
    """A chat with one server and one model at a time."""

    def __init__(
        self, connection: Connection, servers: Servers, reader: LineReader, style: Style, keep_alive: str | None = None
    ) -> None:
        self.connection = connection
        self.servers = servers
        self.reader = reader
        self.style = style
        self.conversation = Conversation(connection.model)
        self._keep_alive = keep_alive

    def switch_model(self, name: str) -> None:
        """Start a new conversation with another model. If the model is unavailable, raises and keeps the current one."""
        connection = self.servers.connect(name)
        self.connection.close()
        self.connection = connection
        self.conversation = Conversation(connection.model)
        self.print_opening()

    def set_style(self, **changes: bool) -> None:
        self.style = replace(self.style, **changes)

    def ask(self, text: str) -> None:
        conversation, api = self.conversation, self.connection.api
        if self._can_chat:
            lines = api.chat(
                conversation.model, conversation.asking(text), conversation.options, keep_alive=self._keep_alive
            )
        else:
            lines = api.generate(conversation.model, text, conversation.options, keep_alive=self._keep_alive)
        answer = print_answer(lines, self.style)
        conversation.remember(text, answer.text)

    @property
    def _can_chat(self) -> bool:
        """True if the model has a chat template. A base model has none and only continues texts."""
        return bool(self.connection.shown.get("template"))

    def print_opening(self) -> None:
        """Print the messages stored in the model, which the server puts before those of the chat."""
        if not self._can_chat:
            print(f"{self.connection.model} has no chat template: it continues each text that you enter.\n")
        for message in self.connection.shown.get("messages") or []:
            text = WordWrap(None).push(str(message.get("content", "")))
            if message.get("role") == "user":
                print(f"{PROMPT}{text}")
            elif message.get("role") == "assistant":
                print(f"{text}\n")
