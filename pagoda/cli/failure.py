"""How a command fails: one sentence with the next step on stderr, an exit status, never a traceback.

CommandError             the command cannot do what was asked
├── ServerError          a server answered, and refused
└── ServerUnreachableError    none answered
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


class CommandError(Exception):
    """Each message is a sentence for the user."""


class ServerError(CommandError):
    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerUnreachableError(CommandError):
    pass


@contextmanager
def failing_in_sentences() -> Iterator[None]:
    """Around a whole command. Mistakes of ours still show where they happened."""
    from pagoda.models.errors import ModelError

    try:
        yield
        sys.stdout.flush()
    except (CommandError, ModelError) as error:
        fail(str(error))
    except BrokenPipeError:
        # Who read our output has seen enough. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def fail(sentence: str) -> NoReturn:
    print(f"Error: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(1)
