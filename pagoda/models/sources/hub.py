"""Models of the Hugging Face hub. Their files stay in the hub's cache, where vLLM, transformers and llama.cpp find them too.

Removing such a model from the store leaves its files in the cache. `hf cache rm` deletes them.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from pagoda.models.errors import ModelError, ModelNotFoundError, ModelSourceError
from pagoda.models.model_settings import ModelSettings
from pagoda.models.names import HubName
from pagoda.models.ollama.layers import parse_parameters
from pagoda.models.sources.hub_cache import HubCache, cache_directory, find_repo
from pagoda.models.sources.hub_client import DEFAULT_REVISION, HubClient, HubUnreachableError, has_digest
from pagoda.models.sources.hub_files import OPTIONAL_FILES, Selection, select_files
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import WEIGHT_SUFFIXES, RemoteFile, RemoteModel
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.source import Fetched, Source
from pagoda.models.sources.transfer import download_files

logger = logging.getLogger(__name__)


class HubSource:
    """One model of the hub."""

    def __init__(self, name: HubName, settings: SourceSettings, client: HubClient) -> None:
        self._name = name
        self._revision = name.revision or DEFAULT_REVISION
        self._client = client
        self._root = cache_directory(settings)
        self._is_offline = settings.is_offline
        self._overrides: list[RemoteFile] = []
        """Files whose content became settings of the model. They are kept in the cache, for pulls without the hub."""

    @property
    def client(self) -> httpx.Client:
        return self._client.http

    def resolve(self) -> RemoteModel:
        """Ask the hub for the model. If the hub cannot be reached, the model in the cache is used, if it is complete there.

        If the weights are in the cache, the files have no URLs, so that no headers of weights are requested.
        """
        if self._is_offline:
            return self._resolve_cached("HF_HUB_OFFLINE is set; unset it to download the model")
        try:
            return self._resolve_online()
        except HubUnreachableError as error:
            try:
                remote = self._resolve_cached(str(error))
            except ModelError:
                raise error from None
            logger.warning("hub not reachable; using its cache", extra={"model": remote.source, "reason": str(error)})
            return remote

    def fetch(self, remote: RemoteModel, meter: DownloadMeter) -> Fetched:
        repo, commit = _place(remote)
        cache = HubCache(self._root, repo)
        cache.forget_abandoned()

        def fetch(files: Sequence[RemoteFile], meter: DownloadMeter) -> dict[str, Path]:
            def download(missing: Mapping[Path, RemoteFile]) -> None:
                for file in missing.values():
                    self._refuse_damaged(remote, file)
                    cache.discard(commit, file)
                files = {path: self._with_url(repo, commit, file) for path, file in missing.items()}
                download_files(self.client, files, meter)

            return cache.fetch(commit, files, download, lambda file, num_bytes: meter.report(file.path, num_bytes))

        quiet = DownloadMeter(self._overrides, lambda progress: None)
        fetch(self._overrides, quiet)
        paths: dict[str, Path] = {}
        # Small files come first, so that other programs need not wait for the weights to get them.
        for is_weights in (False, True):
            paths |= fetch([file for file in remote.files if file.is_weights is is_weights], meter)
        # Not earlier, so that programs that are offline find the earlier version, which is complete.
        cache.write_ref(self._revision, commit)
        return Fetched(files=paths, stays_at=cache.snapshot(commit) / remote.root)

    def _with_url(self, repo: str, commit: str, file: RemoteFile) -> RemoteFile:
        return replace(file, url=self._client.file_url(repo, commit, file.path))

    def _refuse_damaged(self, remote: RemoteModel, file: RemoteFile) -> None:
        """Raise ModelSourceError for a damaged file if it cannot be downloaded again."""
        if self._is_offline:
            raise ModelSourceError(
                f"the file {file.path} of {remote.source} in the hub's cache is damaged, and HF_HUB_OFFLINE is set; "
                "unset it to download the file again"
            )

    def _resolve_online(self) -> RemoteModel:
        repo, commit = self._client.commit()
        cache, shown = HubCache(self._root, repo), f"hf.co/{repo}"
        files = self._client.list_files(repo, commit)

        def read(file: RemoteFile) -> bytes:
            content = cache.read(commit, file)
            if content is None or not has_digest(content, file):
                content = self._client.read(repo, commit, file)
            return content

        selection = select_files(shown, files, self._name.selector, read)
        for file in selection.files:
            if file.path.endswith(WEIGHT_SUFFIXES) and file.sha256 is None:
                raise ModelSourceError(f"{shown} lists no SHA-256 for {file.path}, so it could not be verified")
        return self._remote(
            repo, commit, selection, cache, {name: read(file) for name, file in selection.overrides.items()}
        )

    def _resolve_cached(self, reason: str) -> RemoteModel:
        """Return the model in the cache. Raises ModelSourceError if a file is missing."""
        repo = find_repo(self._root, self._name.repo) or self._name.repo
        cache, shown = HubCache(self._root, repo), f"hf.co/{repo}"
        commit = cache.commit(self._revision)
        files = cache.list_files(commit) if commit is not None else []
        if commit is None or not files:
            revision = f" with the revision {self._revision!r}" if self._name.revision else ""
            raise ModelSourceError(f"{shown} is not in the hub's cache {self._root}{revision}: {reason}")

        def read(file: RemoteFile) -> bytes:
            content = cache.read(commit, file)
            if content is None:
                raise ModelSourceError(
                    f"the file {file.path} of {shown} is not in the hub's cache {self._root}: {reason}"
                )
            return content

        try:
            selection = select_files(shown, files, self._name.selector, read)
        except ModelNotFoundError as error:
            raise ModelSourceError(f"{error}, among the files in the hub's cache {self._root}: {reason}") from None
        present = tuple(file for file in selection.files if file.path not in OPTIONAL_FILES or cache.has(commit, file))
        selection = replace(selection, files=present)
        if missing := [file.path for file in present if not cache.has(commit, file)]:
            raise ModelSourceError(f"the file {missing[0]} of {shown} is not in the hub's cache {self._root}: {reason}")
        # Other programs do not download the files of settings.
        texts = {name: read(file) for name, file in selection.overrides.items() if cache.has(commit, file)}
        return self._remote(repo, commit, selection, cache, texts)

    def _remote(
        self, repo: str, commit: str, selection: Selection, cache: HubCache, texts: Mapping[str, bytes]
    ) -> RemoteModel:
        revision, selector = self._name.revision, self._name.selector
        weights = [file for file in selection.files if file.path.endswith(WEIGHT_SUFFIXES)]
        is_here = all(cache.has(commit, file) for file in weights)
        files = [file if is_here else self._with_url(repo, commit, file) for file in selection.files]
        settings, warnings = _settings(texts)
        self._overrides = [selection.overrides[name] for name in sorted(texts)]
        return RemoteModel(
            name=f"{repo}{f'@{revision}' * bool(revision)}{f':{selector}' * bool(selector)}",
            source=f"hf.co/{repo}@{commit}",
            version="+".join((f"{commit}/{selection.root}" if selection.root else commit, *sorted(texts))),
            files=tuple(files),
            root=selection.root,
            settings=settings,
            warnings=(*selection.warnings, *warnings),
            is_cached=is_here,
        )


@contextmanager
def open_hub(name: HubName, settings: SourceSettings) -> Iterator[Source]:
    """Open a model of the hub. Raises ModelSourceError if the settings or variables for the hub are malformed."""
    client = HubClient(name, settings)
    with client.http:
        yield HubSource(name, settings, client)


def _place(remote: RemoteModel) -> tuple[str, str]:
    """Return the repository and the commit of a model of the hub."""
    repo, _, commit = remote.source.removeprefix("hf.co/").rpartition("@")
    return repo, commit


def _settings(texts: Mapping[str, bytes]) -> tuple[ModelSettings, list[str]]:
    """Return the settings that a repository has beside its GGUF files, and sentences about what is not used of them."""
    decoded = {name: content.decode(errors="replace") for name, content in texts.items()}
    parameters, ignored = parse_parameters(texts["params"]) if "params" in texts else ({}, [])
    settings = ModelSettings(
        template=decoded.get("template", ""), system=decoded.get("system", ""), parameters=parameters
    )
    return settings, ignored
