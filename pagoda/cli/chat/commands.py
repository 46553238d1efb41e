"""The slash commands of a chat and their help texts, in Ollama's order and words."""

from collections.abc import Callable, Sequence

from pagoda.cli.chat.answer_form import LEVELS, parse_format
from pagoda.cli.chat.session import Session
from pagoda.cli.failure import CommandError
from pagoda.cli.store_commands import list_page, show_page
from pagoda.models.parameters import changes_nothing, parameter_lines, parse_parameter

COMMANDS_HELP = '''Available Commands:
  /set            Set session variables
  /show           Show model information
  /list           List the models of the server
  /load <model>   Load another model
  /save <model>   Save your current session
  /clear          Clear session context
  /bye            Exit
  /?, /help       Help for a command
  /? shortcuts    Help for keyboard shortcuts

Use """ to begin a multi-line message.
'''

SET_HELP = """Available Commands:
  /set parameter ...     Set a parameter
  /set system <string>   Set system message
  /set history           Enable history
  /set nohistory         Disable history
  /set wordwrap          Enable wordwrap
  /set nowordwrap        Disable wordwrap
  /set verbose           Show timings
  /set quiet             Disable timings
  /set format json       Enable JSON mode
  /set format <schema>   Set a JSON Schema, or a file with one
  /set noformat          Disable formatting
  /set think             Enable thinking
  /set think <level>     Set how much to think: low, medium, high or max
  /set nothink           Disable thinking
"""

SHOW_HELP = """Available Commands:
  /show info         Show details for this model
  /show license      Show model license
  /show modelfile    Show Modelfile for this model
  /show parameters   Show parameters for this model
  /show system       Show system message
  /show template     Show prompt template
"""

PARAMETERS_HELP = """Available Parameters:
  /set parameter seed <int>              Random number seed
  /set parameter num_predict <int>       Max number of tokens to predict
  /set parameter top_k <int>             Pick from top k num of tokens
  /set parameter top_p <float>           Pick token based on sum of probabilities
  /set parameter min_p <float>           Pick token based on top token probability * min_p
  /set parameter num_ctx <int>           Set the context size
  /set parameter temperature <float>     Set creativity level
  /set parameter repeat_penalty <float>  How strongly to penalize repetitions
  /set parameter repeat_last_n <int>     Set how far back to look for repetitions
  /set parameter stop <string> <string> ...   Set the stop parameters
"""

SHORTCUTS_HELP = """Available keyboard shortcuts:
  Ctrl + a            Move to the beginning of the line (Home)
  Ctrl + e            Move to the end of the line (End)
   Alt + b            Move back (left) one word
   Alt + f            Move forward (right) one word
  Ctrl + k            Delete the sentence after the cursor
  Ctrl + u            Delete the sentence before the cursor
  Ctrl + w            Delete the word before the cursor
  Ctrl + r            Search the history

  Ctrl + l            Clear the screen
  Ctrl + g            Open default editor to compose a prompt
  Ctrl + c            Stop the model from responding
  Ctrl + d            Exit (/bye)
"""

HELP_TOPICS = {
    "set": SET_HELP,
    "show": SHOW_HELP,
    "shortcut": SHORTCUTS_HELP,
    "shortcuts": SHORTCUTS_HELP,
    "parameter": PARAMETERS_HELP,
}


class Commands:
    """The slash commands, applied to a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._by_name: dict[str, Callable[[str, Sequence[str]], None]] = {
            "/set": self._set,
            "/show": self._show,
            "/list": self._list,
            "/load": self._load,
            "/save": self._save,
            "/clear": self._clear,
            "/help": self._help,
            "/?": self._help,
        }

    def obey(self, text: str) -> bool:
        """Run a command; return True to leave the chat. Raises CommandError or ModelError, after which the chat continues."""
        name, *arguments = text.split()
        if name in ("/bye", "/exit"):
            return True
        command = self._by_name.get(name)
        if command is None:
            print(f"Unknown command '{name}'. Type /? for help")
        else:
            command(text, arguments)
        return False

    def _set(self, text: str, arguments: Sequence[str]) -> None:
        session = self._session
        match arguments:
            case ["parameter", name, value] if changes_nothing(name, value):
                print(f"Parameter '{name}' has no effect; ignored.")
            case ["parameter", name, *values] if values:
                session.conversation.options[name] = parse_parameter(name, values)
                print(f"Set parameter '{name}' to '{', '.join(values)}'")
            case ["parameter", *_]:
                print(PARAMETERS_HELP)
            case ["system", _, *_]:
                session.conversation.system = text.split(None, 2)[2]
                print("Set system message.")
            case ["history" | "nohistory" as word]:
                session.reader.remembers = word == "history"
            case ["wordwrap" | "nowordwrap" as word]:
                session.set_style(wordwrap=word == "wordwrap")
                print(f"Set '{word}' mode.")
            case ["verbose" | "quiet" as word]:
                session.set_style(verbose=word == "verbose")
                print(f"Set '{word}' mode.")
            case ["format", _, *_]:
                format = parse_format(text.split(None, 2)[2])
                session.set_form(format=format)
                print(f"Set format to '{format}' mode." if isinstance(format, str) else "Set format to a JSON Schema.")
            case ["format"]:
                print("Invalid or missing format. For 'json' mode use '/set format json'")
            case ["noformat"]:
                session.set_form(format=None)
                print("Disabled format.")
            case ["think", *levels] if not levels or levels[0] in LEVELS:
                session.set_form(think=levels[0] if levels else True)
                print(f"Set 'think' mode to '{levels[0]}'." if levels else "Set 'think' mode.")
                self._warn_of_no_thinking()
            case ["think", word, *_]:
                raise CommandError(f"/set think: the level must be {', '.join(LEVELS)} (got {word!r})")
            case ["nothink"]:
                session.set_form(think=False)
                print("Set 'nothink' mode.")
                self._warn_of_no_thinking()
            case [] | ["system"]:
                print(SET_HELP)
            case [word, *_]:
                print(f"Unknown command '/set {word}'. Type /? for help")

    def _warn_of_no_thinking(self) -> None:
        if not self._session.can_think:
            print(f"warning: model '{self._session.conversation.model}' does not support thinking output")

    def _show(self, text: str, arguments: Sequence[str]) -> None:
        session = self._session
        shown = session.connection.api.show(session.conversation.model)
        match arguments:
            case []:
                print(SHOW_HELP)
            case ["info", *_]:
                print(show_page(shown))
            case ["license", *_]:
                print(shown.get("license") or "No license was specified for this model.")
            case ["modelfile", *_]:
                print(shown.get("modelfile", ""))
            case ["parameters", *_]:
                self._show_parameters(str(shown.get("parameters") or ""))
            case ["system", *_]:
                system = session.conversation.system or shown.get("system")
                print(f"{system}\n" if system else "No system message was specified for this model.")
            case ["template", *_]:
                print(shown.get("template") or "No prompt template was specified for this model.")
            case [word, *_]:
                print(f"Unknown command '/show {word}'. Type /? for help")

    def _show_parameters(self, of_model: str) -> None:
        none = "No additional parameters were specified for this model."
        print("Model defined parameters:", *(of_model or none).splitlines(), sep="\n  ", end="\n\n")
        options = self._session.conversation.options
        if options:
            print("User defined parameters:", *parameter_lines(options), sep="\n  ", end="\n\n")

    def _list(self, text: str, arguments: Sequence[str]) -> None:
        prefix = "".join(arguments[:1]).lower()
        models = self._session.connection.api.tags()
        print(list_page([model for model in models if str(model["name"]).lower().startswith(prefix)]))

    def _load(self, text: str, arguments: Sequence[str]) -> None:
        if len(arguments) != 1:
            print("Usage:\n  /load <modelname>")
            return
        print(f"Loading model '{arguments[0]}'")
        self._session.switch_model(arguments[0])

    def _save(self, text: str, arguments: Sequence[str]) -> None:
        if len(arguments) != 1:
            print("Usage:\n  /save <modelname>")
            return
        conversation = self._session.conversation
        extras = {
            "system": conversation.system,
            "parameters": conversation.options,
            "messages": [{"role": each["role"], "content": each["content"]} for each in conversation.messages],
        }
        body = {"model": arguments[0], "from": conversation.model} | {k: v for k, v in extras.items() if v}
        for _ in self._session.connection.api.create(body):
            pass
        print(f"Created new model '{arguments[0]}'")

    def _clear(self, text: str, arguments: Sequence[str]) -> None:
        self._session.conversation.clear()
        print("Cleared session context")

    def _help(self, text: str, arguments: Sequence[str]) -> None:
        topic = "".join(arguments[:1]).removeprefix("/")
        print(HELP_TOPICS.get(topic, COMMANDS_HELP))
