"""A chat: its model, its conversation, and how the model is asked. What a user types is read in chat_loop.py."""

from dataclasses import dataclass, field, replace
from typing import Any

from pagoda.cli.chat.answer import Style, WordWrap, print_answer
from pagoda.cli.chat.connection import Connection, Servers
from pagoda.cli.chat.line_reader import PROMPT, LineReader

Message = dict[str, str]


@dataclass(slots=True, eq=False)
class Conversation:
    """What a chat has said so far, and how the next answer is asked for."""

    model: str
    system: str = ""
    """In place of the model's own system message."""
    options: dict[str, Any] = field(default_factory=dict)
    """What `/set parameter` has set, as Ollama's `options`."""
    messages: list[Message] = field(default_factory=list)
    """User and assistant in turn."""

    def asking(self, text: str) -> list[Message]:
        """Return the messages of the request that asks `text` next; nothing is remembered yet."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages, {"role": "user", "content": text}]

    def remember(self, text: str, answer: str) -> None:
        """Keep a question and as much of its answer as was seen; neither without an answer: templates want the two to alternate."""
        if answer:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]

    def clear(self) -> None:
        self.messages.clear()


class Session:
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
        """Another model, and a conversation of its own. The old one stays where the new one cannot be had."""
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
        """A base model has no template for a conversation; it goes on with a text."""
        return bool(self.connection.shown.get("template"))

    def print_opening(self) -> None:
        """The messages that a model brings along; the server puts them before ours."""
        if not self._can_chat:
            print(f"{self.connection.model} has no chat template: it goes on with each text that you give it.\n")
        for message in self.connection.shown.get("messages") or []:
            text = WordWrap(None).push(str(message.get("content", "")))
            if message.get("role") == "user":
                print(f"{PROMPT}{text}")
            elif message.get("role") == "assistant":
                print(f"{text}\n")
