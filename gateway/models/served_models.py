"""The models that clients can use: those of the setting `model`, and those of the store that a worker has or can load.

Of the latter, the tokenizers of the most recently used ones are kept.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from gateway.errors import ErrorKind, GatewayError, from_model_error, unavailable
from gateway.models.pull_on_demand import PullOnDemand, may_pull_on_demand
from gateway.models.served_model import ServedModel
from gateway.upstream.schedulers import Schedulers
from pagoda.models.errors import ModelError, ModelNotFoundError, some_names
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.names import parse_name, with_tag
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.store import ModelStore
from pagoda.wire.model_info import ModelInfo

logger = logging.getLogger(__name__)

MODEL_INFO_TTL_S = 1.0
# A tokenizer takes some tens of megabytes, and up to a second to read.
MAX_STORED_MODELS = 8
NEWS_S, NEWS_POLL_S = 5.0, 0.1
"""Longest wait for a worker to report a new model, and interval of the polls, in seconds. Workers look for models every second."""


class ServedModels:
    """The models that clients can use, with what the schedulers report of them."""

    def __init__(
        self,
        named: Sequence[ServedModel],
        store: ModelStore,
        model_editor: ModelEditor,
        schedulers: Schedulers,
        policy: SamplingPolicy,
        on_demand: PullOnDemand | None = None,
    ) -> None:
        """Create the list. `named` models are always served, and listed even without a worker; those of the store only with one.

        `on_demand` pulls models for requests; None if requests may not cause pulls.
        """
        self.named = tuple(named)
        self._store = store
        self._model_editor = model_editor
        self._schedulers = schedulers
        self._policy = policy
        self._on_demand = on_demand
        self._stored: OrderedDict[object, asyncio.Task[ServedModel]] = OrderedDict()
        self._infos: Mapping[str, ModelInfo] = {}
        self._infos_expire_at = float("-inf")
        self._told_versions: dict[str, str] = {}
        """Digests of the workers' versions of named models that were logged."""

    async def find_model(self, name: str | None) -> ServedModel:
        """Return a model by its name, in any case, with or without the tag `latest`. None means the only named model."""
        if name is None and len(self.named) == 1:
            return self.named[0]
        if named := self.find_named(name or ""):
            return named
        if not self._model_editor.has(name or ""):
            served = some_names([f"`{model.name}`" for model in await self.listed_models()])
            raise GatewayError(
                ErrorKind.NOT_FOUND,
                f"The model `{name or ''}` does not exist. Served here: {served}.{how_to_pull(name or '')}",
                param="model",
            )
        return await self._load(name or "")

    @property
    def pulls_on_demand(self) -> bool:
        return self._on_demand is not None

    async def find_or_pull(self, name: str | None) -> ServedModel:
        """Return the model as `find_model` does. If it is not here, pull it first, unless requests may not cause pulls."""
        if name and self._on_demand and not self.has_model(name) and may_pull_on_demand(name):
            await self._on_demand.pull(name)
        try:
            return await self.find_model(name)
        except ModelError as error:  # converted here, because a stream may have begun
            raise from_model_error(error) from None

    def find_named(self, name: str) -> ServedModel | None:
        """Return a named model by its name or alias, or None."""
        wanted = {with_tag(name).lower(), self._canonical_name(name)}
        return next((model for model in self.named if model.tagged_name.lower() in wanted), None)

    def has_model(self, name: str) -> bool:
        return self.find_named(name) is not None or self._model_editor.has(name)

    async def listed_models(self) -> list[Model]:
        """Return all models: first the named ones, in the order of the setting."""
        named = [model.model for model in self.named]
        try:
            await self.refresh_infos()
        except GatewayError:
            return named
        stored = await asyncio.to_thread(self._store.list)
        return [*named, *(each for each in stored if each not in named and self._can_serve(each))]

    async def model_info(self, model: Model, *, news_s: float | None = None) -> ModelInfo:
        """Return the model as the schedulers report it. Raises UNAVAILABLE if no worker serves it or can load it.

        While a lost scheduler and its workers may soon be back, return the last report. Wait at most `news_s` seconds for a worker
        to report a new model, by default as long as that may take.
        """
        if time.monotonic() < self._infos_expire_at and self._can_serve(model):
            return self._infos[model.name]
        # The last answer lacks the model if it was sent after the workers were lost. An earlier answer may have it.
        known = self._infos.get(model.name) or self._schedulers.last_known(model.name)
        if news_s is None:
            news_s = 0.0 if self._is_named(model) else NEWS_S
        news_until = time.monotonic() + news_s
        while True:
            try:
                await self.refresh_infos()
            except GatewayError:
                if known is None or not self._schedulers.is_recovering:
                    raise
                return known
            if self._can_serve(model):
                return self._infos[model.name]
            if known is not None and self._schedulers.is_recovering:
                self._infos = {**self._infos, model.name: known}
                return known
            if time.monotonic() >= news_until:
                raise unavailable(
                    f"No worker serves the model `{model.name}` or can load it at the moment; try again later."
                )
            await asyncio.sleep(NEWS_POLL_S)

    async def model_info_if_any(self, model: Model) -> ModelInfo | None:
        """Return the model as the schedulers report it, for a listing: None without a worker, and no wait for a new model."""
        try:
            return await self.model_info(model, news_s=0.0)
        except GatewayError:
            return None

    async def models_in_memory(self) -> list[tuple[Model | None, ModelInfo]]:
        """Return the models that are loaded or being loaded, with None for one whose files are gone.

        Return none while no scheduler answers.
        """
        try:
            await self.refresh_infos()
        except GatewayError:
            return []
        stored = await asyncio.to_thread(self._store.list)
        files = {model.name: model for model in (*stored, *(each.model for each in self.named))}
        return [(files.get(info.name), info) for info in self._infos.values() if info.num_workers or info.loading]

    async def refresh_infos(self) -> None:
        """Ask the schedulers for their models. Raises GatewayError if none answers."""
        self._infos = {info.name: info for info in await self._schedulers.list_models()}
        for model in self.named:
            self._tell_other_version(model.model)
        self._infos_expire_at = time.monotonic() + MODEL_INFO_TTL_S

    def _tell_other_version(self, model: Model) -> None:
        """Log once if the workers have other files of a named model than this machine, whose tokenizer is used."""
        info = self._infos.get(model.name)
        if info is not None and info.digest not in ("", model.digest, self._told_versions.get(model.name)):
            self._told_versions[model.name] = info.digest
            logger.warning(
                "workers have another version of a model",
                extra={"model": model.name, "here": model.digest[:12], "workers": info.digest[:12]},
            )

    def _can_serve(self, model: Model) -> bool:
        """Return True if a worker has the same files, because prompts are encoded with the files of this machine."""
        info = self._infos.get(model.name)
        return info is not None and info.is_served and (self._is_named(model) or info.digest == model.digest)

    def _is_named(self, model: Model) -> bool:
        return any(each.model.name == model.name for each in self.named)

    async def _load(self, name: str) -> ServedModel:
        """Load the model in a thread, once for all requests. A model that was created again has another manifest."""
        model, state = await asyncio.to_thread(self._current, name)
        key = (model.name, model.digest, state)
        if key not in self._stored:
            self._stored[key] = asyncio.create_task(asyncio.to_thread(self._read, model))
            _forget_oldest(self._stored, MAX_STORED_MODELS)
        self._stored.move_to_end(key)
        try:
            return await asyncio.shield(self._stored[key])
        except BaseException:
            # The next request may find the files repaired.
            self._stored.pop(key, None)
            raise

    def _canonical_name(self, name: str) -> str | None:
        """Return the name in the store, such as the catalogue's name for an alias. None for text that is not a name."""
        try:
            return self._store.canonical_name(name)
        except ModelNotFoundError:
            return None

    def _current(self, name: str) -> tuple[Model, object]:
        return self._store.read_current(self._model_editor.get(name), self._store.state_of)

    def _read(self, model: Model) -> ServedModel:
        return self._store.read_current(model, lambda model: ServedModel.load(model, self._policy))[1]


def how_to_pull(name: str) -> str:
    """Return a sentence that says how to get a model, or nothing for a text that is not a name."""
    try:
        parse_name(name)
    except ModelNotFoundError:
        return ""
    return f" To download it: pagoda pull {name}, or POST /api/pull."


def _forget_oldest(entries: OrderedDict[object, asyncio.Task[ServedModel]], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
