"""Brings models to this machine: asks the source, checks what it has before the download, downloads, and stores the model.

sources/ has the sources. Every model comes this way: `pagoda pull`, `serve`, `run`, Modelfiles, /api/pull and requests.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pagoda.models.blobs import BlobStore
from pagoda.models.catalogue import CatalogueEntry, similar_names
from pagoda.models.errors import (
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    ModelSourceError,
    UnknownRepositoryError,
)
from pagoda.models.formats.description import model_files
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.layout import PARTIAL, remove_if_empty
from pagoda.models.model import Model
from pagoda.models.model_editor import Check, ModelEditor
from pagoda.models.names import DEFAULT_TAG, LIBRARY_HOST, HubName, RegistryName, is_hub_address, is_path, parse_name
from pagoda.models.scratch import Scratch
from pagoda.models.sources.headers import NoRangesError, fetch_headers, is_checkable
from pagoda.models.sources.progress import DownloadMeter, OnProgress, Progress, Stage
from pagoda.models.sources.remote import RemoteModel
from pagoda.models.sources.source import OpenSource, Source
from pagoda.models.sources.transfer import PARTIAL_SUFFIX
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_source

Place = HubName | RegistryName | CatalogueEntry
ABANDONED_AFTER_S = 14 * 24 * 3600

logger = logging.getLogger(__name__)


class ModelPuller:
    """Brings models into one store."""

    def __init__(self, store: ModelStore, editor: ModelEditor) -> None:
        self._store = store
        self._editor = editor
        self._scratch = Scratch(store.layout)

    def ensure(self, name_or_path: str, on_progress: OnProgress, *, insecure: bool = False) -> Model:
        """Return the model, pulled if it is not on this machine. Raises ModelError."""
        try:
            return self._store.get(name_or_path)
        except ModelNotFoundError:
            if is_path(name_or_path):
                raise
        return self.pull(name_or_path, on_progress, insecure=insecure)

    def pull(self, name: str, on_progress: OnProgress, *, insecure: bool = False) -> Model:
        """Bring the newest version of the model here, and continue an interrupted download. Raises ModelError.

        With `insecure`, a registry may be asked over plain HTTP. If several processes call this at once, one of them downloads
        and the others wait.
        """
        key = self._store.canonical_name(name)
        directory = self._store.layout.directory(key)
        with self._pulling(directory, on_progress):
            self._forget_abandoned(except_for=directory)
            here = self._present(name)  # in an Ollama store it may have an alias as its name
            try:
                self._pull(key, self._places(name, here), here, on_progress, insecure)
            except ModelSourceError as error:
                if here is None:
                    raise
                logger.warning("no newer version could be pulled", extra={"model": key, "reason": str(error)})
            remove_if_empty(directory)
        return self._store.get(name)

    @contextmanager
    def _pulling(self, directory: Path, on_progress: OnProgress) -> Iterator[None]:
        """Hold the lock of the model, and report if another process has it."""
        pulling = self._store.layout.pulling
        with ExitStack() as stack:
            try:
                stack.enter_context(pulling(directory, wait=False))
            except BlockingIOError:
                on_progress(Progress(stage=Stage.WAITING, completed_bytes=0, total_bytes=0))
                stack.enter_context(pulling(directory))
            yield

    def _pull(
        self, key: str, places: Sequence[Place], here: Model | None, on_progress: OnProgress, insecure: bool
    ) -> None:
        """Pull from the first place that has the model's repository."""
        missing: list[str] = []
        on_progress(Progress(stage=Stage.RESOLVING, completed_bytes=0, total_bytes=0))
        for place in places:
            with self._open(place, key, insecure) as source:
                try:
                    remote = source.resolve()
                except ModelNotFoundError as error:
                    missing.append(str(error))
                    if isinstance(error, UnknownRepositoryError):
                        continue
                    break  # the same name at another place is another model
                except ModelSourceError as error:
                    raise type(error)("; and ".join([*missing, str(error)])) from error
                if here is None or version_of(here) != remote.version:
                    self._download(key, source, remote, on_progress)
                elif not self._is_intact(here, remote):
                    try:
                        self._download(key, source, remote, on_progress)
                    except ModelSourceError as error:
                        # Not a ModelSourceError, after which the model that is here would be used.
                        raise ModelFormatError(
                            f"the weights of {key} are damaged, and could not be downloaded again: {error}"
                        ) from error
                else:
                    on_progress(Progress(stage=Stage.DONE, completed_bytes=0, total_bytes=0))
                return
        if here is not None:
            raise ModelSourceError("; and ".join(missing))
        similar = similar_names(key)
        meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise ModelNotFoundError("; and ".join(missing) + meant)

    def _places(self, name: str, here: Model | None) -> list[Place]:
        """Return the places to ask for a model, in this order. A model that is here is only updated from its own source."""
        if (entry := self._store.catalogue_entry(name)) is not None:
            return [entry if entry.wheel is not None else parse_name(str(entry.source))]
        place = parse_name(name)
        if isinstance(place, HubName) and not place.revision and not is_hub_address(name):
            # Ollama's users have names of this form, too.
            namespace, model = place.repo.lower().split("/")
            tag = place.selector.lower() or DEFAULT_TAG
            places: list[Place] = [place, RegistryName(host=LIBRARY_HOST, namespace=namespace, model=model, tag=tag)]
            if here is None or version_of(here) is None or (source := read_source(here)) is None:
                return places
            # The same name at the other place may be of another publisher.
            return [each for each in places if isinstance(each, HubName) is is_hub_address(source)]
        return [place]

    def _open(self, place: Place, key: str, insecure: bool) -> OpenSource:
        """Open the source of a place. Sources are imported only here, because most starts download nothing."""
        settings = self._store.sources
        if isinstance(place, CatalogueEntry):
            from pagoda.models.sources.wheel import open_wheels

            return open_wheels(place, self._store.layout.directory(key) / PARTIAL)
        if isinstance(place, HubName):
            try:
                from pagoda.models.sources.hub import open_hub
            except ValueError as error:  # the hub's library reads these variables when it is imported
                raise ModelSourceError(
                    f"HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT must be whole numbers of seconds ({error})"
                ) from None
            return open_hub(place, settings)
        from pagoda.models.sources.registry import open_registry

        return open_registry(place, settings, self._store.layout.blobs, insecure=insecure)

    def _download(self, key: str, source: Source, remote: RemoteModel, on_progress: OnProgress) -> None:
        size = remote.size_bytes
        on_progress(Progress(stage=Stage.CHECKING, completed_bytes=0, total_bytes=size, remote=remote))
        if is_checkable(remote):
            # A server without ranges is not worth a second download of most of the file: the model is checked when it is here.
            with self._scratch.directory() as scratch, suppress(NoRangesError):
                path = fetch_headers(source.client, remote, scratch)
                self._editor.refuse_unusable(path, remote.settings, shown=remote.name)
        meter = DownloadMeter(remote.files, on_progress)
        fetched = source.fetch(remote, meter)
        meter.report_complete()
        meter.report_stage(Stage.VERIFYING)
        for file in remote.files:
            if file.sha256 is not None:
                self._store.digests.note(fetched.files[file.path], file.sha256)
        self._editor.put_fetched(key, remote, fetched)
        meter.report_stage(Stage.DONE)

    def _is_intact(self, here: Model, remote: RemoteModel) -> bool:
        """Return False if a file of weights was changed on this machine. Digests are cached, so unchanged files are not read."""
        if here.in_ollama_store:
            return True  # only Ollama may repair it
        try:
            found = {self._store.digests.file_digest(file) for file in model_files(here.path)}
        except (OSError, ModelError):  # removed or made unreadable since it was described
            return False
        return all(file.sha256 in found for file in remote.files if file.is_weights and file.sha256 is not None)

    def _present(self, name: str) -> Model | None:
        try:
            return self._store.get(name)
        except ModelError:  # also a damaged one, which is pulled again
            return None

    def _forget_abandoned(self, except_for: Path) -> None:
        """Delete interrupted downloads that were not resumed for two weeks, because they fill the disk unnoticed."""
        layout = self._store.layout
        for partial in layout.partials():
            with suppress(OSError):  # another process uses it
                if partial.parent != except_for and _is_abandoned(partial):
                    with layout.pulling(partial.parent, wait=False):
                        shutil.rmtree(partial, ignore_errors=True)
        for partial in layout.blobs.glob(f"*{PARTIAL_SUFFIX}*"):
            with suppress(OSError):
                if _is_abandoned(partial):
                    partial.unlink()


def open_puller(home: Path, check: Check = lambda model, settings: None) -> ModelPuller:
    """Return the puller of a home. `check` raises ModelFormatError for a model that could not be used."""
    store = ModelStore(home)
    return ModelPuller(store, ModelEditor(store, BlobStore(home), check))


def version_of(model: Model) -> str | None:
    """Return the version that the model's source gave it, or None for a model that did not come from a source."""
    if model.in_ollama_store:
        return _digest_of(model.manifest)
    content = read_json(model.manifest) if model.manifest is not None else {}
    # Earlier versions wrote only the digest of a wheel's file, which is the version of such a model.
    version = content.get("version") or content.get("sha256")
    return version if isinstance(version, str) else None


def _digest_of(manifest: Path | None) -> str | None:
    """Return the version of a model of an Ollama installation: the registry's, if Ollama pulled it from there."""
    try:
        return None if manifest is None else hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError:  # Ollama has just removed it
        return None


def _is_abandoned(path: Path) -> bool:
    inside = path.iterdir() if path.is_dir() else ()
    last_changed: float = max(each.stat().st_mtime for each in (path, *inside))
    return time.time() - last_changed > ABANDONED_AFTER_S
