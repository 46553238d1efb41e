"""Models of the Hugging Face hub."""

from pagoda.models.errors import ModelSourceError
from pagoda.models.names import HubName
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.source import OpenSource


def open_hub(name: HubName, settings: SourceSettings) -> OpenSource:
    raise ModelSourceError(f"{name}: being written")
