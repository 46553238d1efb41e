"""A check in a separate process that the gateway could use a model's tokenizer and chat template."""

import subprocess
import sys

from pagoda.models.errors import ModelFormatError
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings

UNUSABLE = 65
"""Exit status of gateway.models.model_check for an unusable model. Any other status says nothing about the model."""


def check_text(model: Model, settings: ModelSettings) -> None:
    """Raise ModelFormatError if the gateway could not tokenize texts or render chats for the model.

    Without the packages of the gateway, nothing is checked.
    """
    command = [sys.executable, "-P", "-m", "gateway.models.model_check", str(model.path)]
    ended = subprocess.run(command, input=settings.template, capture_output=True, text=True)
    if ended.returncode == UNUSABLE:
        raise ModelFormatError(ended.stderr.strip())
