"""Failures of a command: a message with the next step on stderr and an exit status, without a traceback.

CommandError                  the command failed
├── ServerError               a server answered with an error
└── ServerUnreachableError    no server answered
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from pagoda.validation import describe_problem

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""


class CommandError(Exception):
    """A failure whose message is written for the user."""


class ServerError(CommandError):
    """An error answer of a server. `status` is its HTTP status, 200 for an error inside a stream."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerUnreachableError(CommandError):
    """No server answered, or the connection broke."""


class PlainGroup(TyperGroup):
    """The group of all commands. It states what an option may be, and the rejected value, where typer shows pydantic's words."""

    def invoke(self, ctx: Any) -> Any:
        from pydantic import ValidationError

        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message = describe_problem(error.__cause__.errors(include_url=False)[0])
            if error.param is not None and isinstance(error.param.envvar, list):
                error.param_hint = f"'{error.param.opts[0]}' (or {', '.join(error.param.envvar)})"
            raise


@contextmanager
def failing_in_sentences() -> Iterator[None]:
    """Run a command in the block and turn expected errors into a message and an exit status. Bugs keep their traceback."""
    from pagoda.models.errors import ModelError

    try:
        yield
        sys.stdout.flush()
    except (CommandError, ModelError) as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader of the output closed the pipe. Buffered output must not fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        fail(describe_os_error(error))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def describe_os_error(error: OSError) -> str:
    """Return what failed, with the file if the error names one."""
    reason = error.strerror or str(error)
    return f"cannot use {error.filename}: {reason}" if error.filename else reason


def fail(sentence: str) -> NoReturn:
    print(f"Error: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(1)
