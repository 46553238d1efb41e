"""The chat loop without a terminal: entries, commands, conversation, and failures that do not end the chat."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagoda.cli.chat.answer import Answer, Style, timing_lines
from pagoda.cli.chat.chat_loop import ChatLoop
from pagoda.cli.chat.connection import Servers
from pagoda.cli.chat.line_reader import read_entry
from pagoda.cli.chat.session import Conversation, Session
from pagoda.models.errors import ModelNotFoundError
from tests.fakes.ollama_server import END, OllamaServer, ollama_server
from tests.fakes.tiny_model import write_tiny_gguf


class Lines:
    """A user who types these lines and then Ctrl-D. An exception stands for a key that raises it."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self.remembers = True
        self.prompts: list[str] = []
        self._lines = iter(lines)

    def read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with ollama_server() as server:
        yield server


@pytest.fixture
def servers(server: OllamaServer, tmp_path: Path) -> Servers:
    return Servers(home=tmp_path, address=server.url)


@pytest.fixture
def found(server: OllamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    """Return servers of which none is named, while one runs at the default address."""
    monkeypatch.setattr("pagoda.cli.chat.connection.DEFAULT_SERVER", server.url)
    return Servers(home=tmp_path)


def test_a_running_server_is_asked_for_a_model_that_it_has_not_got(found: Servers, server: OllamaServer) -> None:
    server.pullable = {"new"}
    connection = found.connect("new")
    assert (connection.model, connection.own, connection.api.url) == ("new", None, server.url)
    connection.close()


def test_a_running_server_is_given_a_file(found: Servers, server: OllamaServer, tmp_path: Path) -> None:
    connection = found.connect(str(write_tiny_gguf(tmp_path / "mine.gguf")))
    assert (connection.model, connection.own) == ("mine", None)
    assert len(server.blobs) == 1
    connection.close()


def test_what_no_server_can_get_is_named(found: Servers) -> None:
    with pytest.raises(ModelNotFoundError, match="'no such' is neither a model name"):
        found.connect("no such")


def chat(servers: Servers, *lines: str | type[BaseException], verbose: bool = False) -> Session:
    session = Session(servers.connect("tiny"), servers, Lines(*lines), Style(wordwrap=True, verbose=verbose))
    try:
        ChatLoop(session).run()
    finally:
        session.connection.close()
    return session


def test_each_question_carries_the_conversation(servers: Servers, server: OllamaServer) -> None:
    chat(servers, "one", "two")
    hello = {"role": "assistant", "content": "Hello there."}
    assert [body["messages"] for body in server.bodies("/api/chat")] == [
        [{"role": "user", "content": "one"}],
        [{"role": "user", "content": "one"}, hello, {"role": "user", "content": "two"}],
    ]


def test_clear_forgets_and_the_system_message_stays(servers: Servers, server: OllamaServer) -> None:
    chat(servers, "/set system Be brief.", "one", "/clear", "two")
    assert server.bodies("/api/chat")[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "two"},
    ]


def test_parameters_go_with_each_question(servers: Servers, server: OllamaServer) -> None:
    chat(servers, "/set parameter top_k 3", "/set parameter stop a b", "/set parameter temperature 0.5", "one")
    assert server.bodies("/api/chat")[0]["options"] == {"top_k": 3, "stop": ["a", "b"], "temperature": 0.5}


def test_empty_lines_ask_nothing(servers: Servers, server: OllamaServer) -> None:
    chat(servers, "", "   ")
    assert server.bodies("/api/chat") == []


def test_quotes_hold_several_lines_together() -> None:
    lines = Lines('"""one', "", 'two"""')
    assert read_entry(lines).text == "one\n\ntwo"
    assert lines.prompts == [">>> ", "... ", "... "]
    assert read_entry(Lines('"""', "/not a command", '"""')) == read_entry(Lines('"""/not a command"""'))
    assert not read_entry(Lines('"""/not a command"""')).is_command
    assert read_entry(Lines('say """ aloud')).text == 'say """ aloud'
    system = read_entry(Lines('/set system """one', 'two"""'))
    assert (system.text, system.is_command) == ("/set system one\ntwo", True)


def test_a_system_message_of_several_lines(servers: Servers, server: OllamaServer) -> None:
    chat(servers, '/set system """one', '  two"""', "hi")
    assert server.bodies("/api/chat")[0]["messages"][0] == {"role": "system", "content": "one\n  two"}


def test_ctrl_c_at_the_prompt_drops_the_entry(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    chat(servers, '"""one', KeyboardInterrupt, "/bye")
    assert "Use Ctrl + d or /bye to exit." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/?", "Available Commands:"),
        ("/help set", "/set parameter"),
        ("/? /show", "/show info"),
        ("/? shortcuts", "Ctrl + g"),
        ("/set", "/set system <string>"),
        ("/set parameter", "Available Parameters:"),
        ("/set nowordwrap", "Set 'nowordwrap' mode."),
        ("/set verbose", "Set 'verbose' mode."),
        ("/set colour red", "Unknown command '/set colour'. Type /? for help"),
        ("/show", "/show template"),
        ("/show info", "    context length    512"),
        ("/show template", "{{ messages }}"),
        ("/show modelfile", "FROM tiny"),
        ("/show system", "No system message was specified for this model."),
        ("/show license", "No license was specified for this model."),
        ("/show parameters", "Model defined parameters:\n  temperature 0.5"),
        ("/show colour", "Unknown command '/show colour'"),
        ("/list", "    5 GB    "),
        ("/list TI", "    5 GB    "),
        ("/list other", "NAME    ID    SIZE    MODIFIED\n"),
        ("/load", "Usage:\n  /load <modelname>"),
        ("/save", "Usage:\n  /save <modelname>"),
        ("/save mine", "Created new model 'mine'"),
        ("/nonsense", "Unknown command '/nonsense'. Type /? for help"),
        ("/set parameter heat 1", "Error: unknown parameter 'heat'"),
        ("/set parameter top_k x", "Error: top_k must be a whole number"),
        ("/set format", "Invalid or missing format. For 'json' mode use '/set format json'"),
        ("/set format {", "Error: the format is not JSON"),
        ('/set format {"type": "object"}', "Set format to a JSON Schema."),
        ("/set think", "warning: model 'tiny' does not support thinking output"),
        ("/set think a lot", "Error: /set think: the level must be low, medium, high, max (got 'a')"),
        ("/load nothing", "pull model manifest: the model 'nothing' is unknown"),
    ],
)
def test_commands(servers: Servers, capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    chat(servers, line)
    output = capsys.readouterr()
    assert words in output.out + output.err


def test_the_form_of_answers(servers: Servers, server: OllamaServer) -> None:
    chat(
        servers,
        "one",
        "/set format json",
        "/set think",
        "two",
        "/set noformat",
        "/set think high",
        "3",
        "/set nothink",
        "4",
    )
    forms = [{name: body.get(name) for name in ("format", "think")} for body in server.bodies("/api/chat")]
    assert forms == [
        {"format": None, "think": None},
        {"format": "json", "think": True},
        {"format": None, "think": "high"},
        {"format": None, "think": False},
    ]


def test_thinking_is_dimmed_and_sent_back(
    servers: Servers, server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    server.thoughts = ["Let me", " see."]
    chat(servers, "one", "two", "/save mine")
    shown = capsys.readouterr().out
    assert "\x1b[90m\x1b[1mThinking...\n\x1b[0m\x1b[90mLet me\x1b[0m\x1b[90m see.\x1b[0m\n" in shown
    assert "\x1b[90m\x1b[1m...done thinking.\n\n\x1b[0mHello there." in shown
    (_, answer, _) = server.bodies("/api/chat")[1]["messages"]
    assert answer == {"role": "assistant", "content": "Hello there.", "thinking": "Let me see."}
    assert all("thinking" not in message for message in server.bodies("/api/create")[0]["messages"])


def test_the_history_can_be_left_out(servers: Servers) -> None:
    assert chat(servers, "/set nohistory").reader.remembers is False
    assert chat(servers, "/set nohistory", "/set history").reader.remembers is True


def test_save_sends_the_session(servers: Servers, server: OllamaServer) -> None:
    chat(servers, "/set system Be brief.", "/set parameter top_k 3", "one", "/save mine")
    assert server.bodies("/api/create") == [
        {
            "model": "mine",
            "from": "tiny",
            "system": "Be brief.",
            "parameters": {"top_k": 3},
            "messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Hello there."}],
        }
    ]


def test_load_begins_a_new_conversation(servers: Servers, server: OllamaServer) -> None:
    session = chat(servers, "one", "/load tiny:latest", "two")
    assert session.conversation.model == "tiny:latest"
    assert server.bodies("/api/chat")[1]["messages"] == [{"role": "user", "content": "two"}]


def test_the_messages_of_a_model_are_shown_first(
    servers: Servers, server: OllamaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.shown["messages"] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr!"}]
    chat(servers)
    assert capsys.readouterr().out == ">>> Hi\nArr!\n\n\n"


def test_a_model_without_a_template_completes(
    servers: Servers, server: OllamaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.shown["template"] = ""
    chat(servers, "/set parameter top_k 3", "Once upon a time")
    assert "tiny has no chat template" in capsys.readouterr().out
    assert server.bodies("/api/generate")[-1] == {
        "model": "tiny",
        "prompt": "Once upon a time",
        "options": {"top_k": 3},
    }


def test_verbose_prints_ollamas_timings(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    chat(servers, "one", verbose=True)
    assert capsys.readouterr().err.splitlines()[:8] == [
        "total duration:       2.5s",
        "load duration:        1.5ms",
        "prompt eval count:    10 token(s)",
        "prompt eval duration: 500ms",
        "prompt eval rate:     20.00 tokens/s",
        "eval count:           4 token(s)",
        "eval duration:        2s",
        "eval rate:            2.00 tokens/s",
    ]


def test_timings_that_are_missing_are_left_out() -> None:
    without = {name: value for name, value in END.items() if not name.startswith("prompt")}
    assert [line.partition(":")[0] for line in timing_lines(without)][2] == "eval count"


def test_an_error_in_the_stream_does_not_end_the_chat(
    servers: Servers, server: OllamaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.error_after_pieces = "the worker is gone"
    session = chat(servers, "one", "two")
    assert capsys.readouterr().err.count("Error: the worker is gone") == 2
    assert session.conversation.messages == []


def test_a_stopped_answer_is_remembered_as_far_as_it_was_seen() -> None:
    conversation = Conversation("tiny")
    conversation.remember("one", Answer(text="so f"))
    conversation.remember("two", Answer(thinking="Hm"))
    assert [message["content"] for message in conversation.messages] == ["one", "so f"]
