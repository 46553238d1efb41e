"""A user of a fake hub: a store of models, and a cache of the hub, which other programs may share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pagoda.models.blobs import BlobStore
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.names import HubName, parse_name
from pagoda.models.pull import ModelPuller
from pagoda.models.sources.hub import open_hub
from pagoda.models.sources.progress import Progress
from pagoda.models.sources.remote import RemoteModel
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.store import ModelStore
from tests.fakes.hub_server import FakeHub


class HubUser:
    """One home and one cache, and the settings of the hub."""

    def __init__(self, hub: FakeHub, directory: Path, **settings: Any) -> None:
        self.hub = hub
        self.home = directory / "home"
        self.cache = directory / "cache"
        self.settings = replace(SourceSettings(hub_url=hub.url, hub_token="", hub_cache=self.cache), **settings)
        # Other sources than the hub must not be reached.
        self.settings = replace(self.settings, registry_url="http://127.0.0.1:9")
        self.store = ModelStore(self.home, catalogue=(), sources=self.settings)
        self.puller = ModelPuller(self.store, ModelEditor(self.store, BlobStore(self.home)))

    def pull(self, name: str, on_progress: Callable[[Progress], None] = lambda progress: None) -> Model:
        return self.puller.pull(name, on_progress)

    def resolve(self, name: str) -> RemoteModel:
        place = parse_name(name)
        assert isinstance(place, HubName)
        with open_hub(place, self.settings) as source:
            return source.resolve()

    def with_settings(self, **settings: Any) -> "HubUser":
        """Return the same user with other settings."""
        return HubUser(self.hub, self.home.parent, **{"hub_token": self.settings.hub_token, **settings})

    def repo(self, name: str) -> Path:
        """Return the directory of a repository in the cache."""
        return self.cache / f"models--{name.replace('/', '--')}"

    def snapshot(self, name: str, commit: str) -> Path:
        return self.repo(name) / "snapshots" / commit

    def manifest(self, model: Model) -> dict[str, Any]:
        assert model.manifest is not None
        content: dict[str, Any] = json.loads(model.manifest.read_bytes())
        return content

    def run_library(self, code: str, **environment: str) -> Any:
        """Run a program that uses huggingface_hub unmodified on the same hub and cache. Return what it prints, as JSON."""
        variables = {"HF_ENDPOINT": self.hub.url, "HF_HUB_CACHE": str(self.cache), "HF_HUB_DISABLE_XET": "1"}
        program = f"import json\nfrom huggingface_hub import *\nprint(json.dumps({code}))"
        output = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | variables | environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        return json.loads(output.stdout)
