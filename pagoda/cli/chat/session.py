"""The state of a chat: its server, model and conversation. chat_loop.py reads what the user types."""

from dataclasses import dataclass, field, replace
from typing import Any

from pagoda.cli.chat.answer import Answer, Style, WordWrap, print_answer
from pagoda.cli.chat.answer_form import AnswerForm
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

    def remember(self, text: str, answer: Answer) -> None:
        """Add a question and the printed part of its answer. Adds neither if the answer is empty, because roles must alternate."""
        if answer.text:
            thinking = {"thinking": answer.thinking} if answer.thinking else {}
            self.messages += [
                {"role": "user", "content": text},
                {"role": "assistant", "content": answer.text, **thinking},
            ]

    def clear(self) -> None:
        self.messages.clear()


class Session:
    """A chat with one server and one model at a time."""

    def __init__(
        self,
        connection: Connection,
        servers: Servers,
        reader: LineReader,
        style: Style,
        keep_alive: str | None = None,
        form: AnswerForm | None = None,
    ) -> None:
        self.connection = connection
        self.servers = servers
        self.reader = reader
        self.style = style
        self.form = form or AnswerForm()
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

    def set_form(self, **changes: Any) -> None:
        self.form = replace(self.form, **changes)

    @property
    def can_think(self) -> bool:
        return "thinking" in (self.connection.shown.get("capabilities") or ())

    def ask(self, text: str) -> None:
        conversation, api = self.conversation, self.connection.api
        model, options, keep_alive = conversation.model, conversation.options, self._keep_alive
        format, think = self.form.format, self.form.think
        if self._can_chat:
            lines = api.chat(model, conversation.asking(text), options, keep_alive, format, think)
        else:
            lines = api.generate(model, text, options, keep_alive, format, think)
        conversation.remember(text, print_answer(lines, self.style))

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
