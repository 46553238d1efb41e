"""Errors about models in files and in the store.

ModelError
├── ModelNotFoundError   the model is unknown or not on this machine
│   └── UnknownRepositoryError  the source has no such repository, so that another one may be asked
├── ModelFormatError     the files are damaged or of an unsupported kind
│   ├── ChatTemplateChoiceError  no template can be chosen
│   │   └── UnknownGoTemplateError
│   └── ResponseTemplateError   the description of the model's output cannot be used
├── ModelfileError       a Modelfile or a parameter is malformed
├── ModelSourceError     the download failed or has a wrong checksum
│   └── ModelAccessError the source refuses this user: the model is gated or private
├── ModelOwnerError      the model belongs to another program, which alone may change it
└── ModelStoreError      the store cannot be written: no space, no permission
"""

import re
from collections.abc import Sequence

MAX_NAMES = 12
"""Largest number of models that a message lists."""
# A path from its beginning to its last slash. A slash after a letter or before a space does not begin a path.
_DIRECTORIES = re.compile(r"(?<![^\s'\"(:])/(?=[^\s/])(?:[^/\n:'\"]+/)+(?=[^\s/])")


def without_directories(text: str) -> str:
    """Return the message with file names instead of paths, because clients must not learn the server's directories."""
    return _DIRECTORIES.sub("", text)


def some_names(names: Sequence[str]) -> str:
    """Return the first MAX_NAMES names and how many more there are, so that messages stay short."""
    shown = ", ".join(names[:MAX_NAMES])
    return f"{shown} and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else shown


class ModelError(Exception):
    """An error about a model. The message is written for the user: what is wrong and, if possible, what to do."""


class ModelNotFoundError(ModelError, LookupError):
    """The model is unknown or not on this machine."""


class UnknownRepositoryError(ModelNotFoundError):
    """The source has no repository of this name, or only for other users. Another source may have the model."""


class ModelFormatError(ModelError, ValueError):
    """The model's files are damaged or of an unsupported kind."""


class ChatTemplateChoiceError(ModelFormatError):
    """None of the model's chat templates can be used. The model can complete texts."""


class UnknownGoTemplateError(ChatTemplateChoiceError):
    """The model's only chat template is a Go template that is not known."""


class ResponseTemplateError(ModelFormatError):
    """The checkpoint's description of its output cannot be used. The format is chosen by other means."""


class ModelfileError(ModelError, ValueError):
    """A Modelfile or a parameter is malformed."""


class ModelSourceError(ModelError):
    """The download failed or has a wrong checksum."""


class ModelAccessError(ModelSourceError):
    """The source refuses this user: the model is gated or private, or the token is wrong."""


class ModelOwnerError(ModelError):
    """The model belongs to another program, which alone may change it."""


class ModelStoreError(ModelError):
    """The store cannot be written."""
