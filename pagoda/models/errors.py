"""What can go wrong with a model before a worker sees it.

ModelError
├── ModelNotFoundError   the caller asked for a model that is unknown or not on this machine
├── ModelFormatError     the files are damaged, or of a kind that Pagoda does not read
├── ModelfileError       a Modelfile, or a parameter that could stand in one, is not understood
├── ModelSourceError     the source did not deliver: download failed, checksum wrong
└── ModelStoreError      the store cannot be written: no space, no permission
"""

import re
from collections.abc import Sequence

MAX_NAMES = 12
"""How many models a sentence names."""
# From where a path begins to its last slash. A slash behind a letter or before a space is none.
_DIRECTORIES = re.compile(r"(?<![^\s'\"(:])/(?=[^\s/])(?:[^/\n:'\"]+/)+(?=[^\s/])")


def without_directories(text: str) -> str:
    """The sentence with the names of files alone: where they lie on a server is nothing that its clients should know."""
    return _DIRECTORIES.sub("", text)


def some_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are: a store of hundreds of models makes no sentence."""
    shown = ", ".join(names[:MAX_NAMES])
    return f"{shown} and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else shown


class ModelError(Exception):
    """Each message is a sentence for the user: what is wrong, and what to do where something can be done."""


class ModelNotFoundError(ModelError, LookupError):
    pass


class ModelFormatError(ModelError, ValueError):
    pass


class ModelfileError(ModelError, ValueError):
    pass


class ModelSourceError(ModelError):
    pass


class ModelStoreError(ModelError):
    pass
