"""Brings a model to a server that runs: by its name, which the server fetches, or by its files, which are uploaded.

The server keeps it, under the files' name.
"""

import re
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from pagoda.cli.fetch import progress_display
from pagoda.cli.ollama_api import OllamaAPI
from pagoda.models.catalogue import DEFAULT_TAG
from pagoda.models.digest import DigestCache
from pagoda.models.model import Model
from pagoda.models.model_editor import CHECKPOINT_SUFFIXES
from pagoda.models.sources import Progress, Stage


def is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or model.endswith(".gguf")


def pull(api: OllamaAPI, model: str) -> None:
    """All layers as one download. Raises ServerError."""
    totals: dict[str, int] = {}
    completed: dict[str, int] = {}
    with progress_display(model) as on_progress, closing(api.pull(model)) as lines:
        for line in lines:
            if digest := line.get("digest"):
                totals[digest] = line.get("total", 0)
                completed[digest] = line.get("completed", 0)
                progress = Progress(
                    stage=Stage.DOWNLOADING,
                    completed_bytes=sum(completed.values()),
                    total_bytes=sum(totals.values()),
                )
                on_progress(progress)


def upload(api: OllamaAPI, model: Model, digests: DigestCache) -> str:
    """Return the name that the model has at the server, which has it afterwards. Raises ServerError."""
    there = {str(each["name"]): each.get("digest") for each in api.tags()}
    same = next((name for name, digest in there.items() if digest == model.digest), None)
    if same is not None:
        return same
    files = {path.name: f"sha256:{digests.file_digest(path)}" for path in _files(model)}
    for path in _files(model):
        if not api.has_blob(files[path.name]):
            api.upload_blob(files[path.name], path)
    name = _name(model, there)
    for _ in api.create({"model": name, "files": files}):
        pass
    return name


def _files(model: Model) -> list[Path]:
    if model.path.is_file():
        return [model.path]
    return sorted(file for file in model.path.iterdir() if file.is_file() and file.suffix in CHECKPOINT_SUFFIXES)


def _name(model: Model, taken: Collection[str]) -> str:
    """The files' own, in the characters that a name may have; no other model of the server loses its."""
    name = re.sub(r"[^a-z0-9._-]+", "-", model.name.lower()).strip("-._")[:79] or "model"
    return name if f"{name}:{DEFAULT_TAG}" not in taken else f"{name}:{model.digest[:12]}"
