"""The models on this machine: functions that find, list and describe them.

layout.py defines the paths. The models of an Ollama installation are listed too and read in place; a model of the store hides one
with the same name. A path to a GGUF file or a safetensors directory is a model too and stays in its place. Of a GGUF model in
parts, any part's path will do. Any process may change the store at any time: a model that vanishes while it is read counts as
missing, and one that is replaced is read again. pull.py brings models here.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pagoda.models.catalogue import CATALOGUE, CatalogueEntry, find_entry
from pagoda.models.digest import DigestCache, FileState, file_state
from pagoda.models.errors import ModelError, ModelFormatError, ModelNotFoundError, some_names
from pagoda.models.foreign_files import ForeignFiles, ForeignPlace
from pagoda.models.formats.description import describe, model_files
from pagoda.models.formats.gguf_parts import first_part, model_stem, part_paths
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.layout import StoreLayout, is_there
from pagoda.models.model import Model
from pagoda.models.names import NAME, is_path, normalize_name, with_tag
from pagoda.models.ollama.store import OllamaStore, read_stored_model, stored_blob
from pagoda.models.scratch import Scratch
from pagoda.models.sources.settings import SourceSettings

# How often a model is read again if it is replaced while it is read.
MAX_READS = 20
MAX_DESCRIBED = 1024

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ModelStore:
    """The store of one home."""

    def __init__(
        self, home: Path, *, catalogue: Sequence[CatalogueEntry] = CATALOGUE, sources: SourceSettings | None = None
    ) -> None:
        """Open the store. `sources` says where Ollama installations keep models; the default comes from the environment."""
        self._catalogue = catalogue
        self.sources = SourceSettings.from_environment() if sources is None else sources
        self.layout = StoreLayout(home)
        self.directory = self.layout.models
        self.digests = DigestCache(self.layout.digests)
        self.ollama_stores = [OllamaStore(place) for place in self.sources.ollama_stores]
        self.foreign_files = ForeignFiles(self.ollama_stores)
        self._described: OrderedDict[object, Model] = OrderedDict()
        self._refused: dict[FileState, str] = {}
        """Reasons why files of Ollama cannot be served, empty for a file that passed the checks."""
        self._told: dict[Path, str] = {}
        """Reasons, already logged, why models cannot be read."""
        self.left_out: list[str] = []
        """Names of the models of Ollama that the last `list` has left out, because they cannot be served."""

    def list(self) -> list[Model]:
        """Return the models on this machine, sorted by name. A model that cannot be read is left out and logged once.

        A model of Ollama is logged with the level INFO, because many are of a kind that is not supported.
        """
        models, unreadable = {}, {}
        for manifest in self.manifests():
            try:
                model = self.read_manifest(manifest)
            except ModelNotFoundError:
                continue
            except Exception as error:  # One damaged model must not hide the others.
                unreadable[manifest] = str(error) or repr(error)
            else:
                models[model.name] = model
        for manifest, reason in unreadable.items():
            if self._told.get(manifest) != reason:
                level = logging.INFO if self.is_ollamas(manifest) else logging.WARNING
                logger.log(level, "model cannot be read", extra={"manifest": str(manifest), "reason": reason})
        self._told = unreadable
        self.left_out = [self.name_at(manifest) for manifest in unreadable if self.is_ollamas(manifest)]
        return [models[name] for name in sorted(models)]

    def get(self, name_or_path: str) -> Model:
        """Return a model of the store by name or alias, or any model on disk by its path. Raises ModelError."""
        path = Path(name_or_path)
        if is_path(name_or_path):
            return self._get_path(path)
        entry = find_entry(name_or_path, self._catalogue)
        if (manifest := self.find(name_or_path)) is not None:
            return self.read_manifest(manifest)
        if path.exists():
            return self._get_path(path)
        if entry is not None:
            raise ModelNotFoundError(
                f"model {entry.name!r} is not on this machine; download it: pagoda pull {entry.name}"
            )
        # The models themselves are not read: that takes long, and logs what is wrong with others.
        here = some_names(sorted(map(self.name_at, self.manifests()))) or "none"
        raise ModelNotFoundError(
            f"model {name_or_path!r} is not on this machine (here: {here}); download it: pagoda pull {name_or_path}"
        )

    def manifests(self) -> Sequence[Path]:
        """Return the manifests of all models: of this store, and of Ollama's stores unless this store has a model of the name."""
        own = self.layout.manifests()
        names = {self.layout.name_at(manifest.parent) for manifest in own}
        others: dict[str, Path] = {}
        for store in self.ollama_stores:
            for manifest in store.manifests():
                name = store.name_at(manifest)
                if self._canonical_or_itself(name) not in names:
                    others.setdefault(name.lower(), manifest)
        return [*own, *others.values()]

    def find(self, name: str) -> Path | None:
        """Return the manifest of a model, which may be damaged: of this store, else of an Ollama store. None if there is none.

        Raises ModelNotFoundError for an invalid name.
        """
        if (manifest := self.layout.find(self.canonical_name(name))) is not None:
            return manifest
        # The name as it is written comes first: it may be an alias here, and Ollama's name of another model.
        entry = self.catalogue_entry(name)
        spellings = [name, *([entry.name] if entry else [])]
        found = (store.find(each) for each in spellings for store in self.ollama_stores)
        return next((manifest for manifest in found if manifest is not None), None)

    def name_at(self, manifest: Path) -> str:
        """Return the name of the model with this manifest, which may be damaged."""
        store = self._ollama_store_of(manifest)
        return self.layout.name_at(manifest.parent) if store is None else store.name_at(manifest)

    def is_ollamas(self, manifest: Path) -> bool:
        """Return True for a manifest in an Ollama store."""
        return self._ollama_store_of(manifest) is not None

    def foreign_place_of(self, manifest: Path) -> ForeignPlace | None:
        """Return where the files of a model stay that this store only names. None for its own files, and for a damaged manifest."""
        try:
            path = _path_of(read_json(manifest), manifest)
        except (OSError, ModelFormatError):
            return None
        return None if path is None or self.is_own(path) else self.foreign_files.find(path)

    def tidy(self) -> None:
        """Delete files of dead processes, and move directories of earlier versions. Never raises: a store that cannot be changed
        stays as it is."""
        scratch = Scratch(self.layout)
        try:
            if self.directory.is_dir():
                scratch.sweep()
                scratch.sweep_old()
                with self.layout.changing():
                    self.layout.move_old_directories()
        except OSError as error:
            logger.info("store cleanup failed", extra={"reason": str(error)})

    def canonical_name(self, name: str) -> str:
        """Return the canonical form of a name: in lower case, with its tag, aliases replaced by the catalogue's name.

        If the store has a model whose own name is an alias of the catalogue, that model is meant.
        """
        canonical, entry = normalize_name(name), self.catalogue_entry(name)
        if entry is None or entry.name == canonical or self.layout.find(canonical) is not None:
            return canonical
        return entry.name

    def catalogue_entry(self, name: str) -> CatalogueEntry | None:
        return find_entry(name, self._catalogue)

    def read_manifest(self, manifest: Path) -> Model:
        """Return the current model. Raises ModelNotFoundError if it was removed, ModelFormatError if it cannot be read."""
        name = self.name_at(manifest)
        for _ in range(MAX_READS):
            before = _state(manifest)
            if before is None:
                raise ModelNotFoundError(f"model '{name}' not found")
            try:
                read = self._read_ollamas if self.is_ollamas(manifest) else self._read_manifest
                found: Model | ModelError = read(name, manifest)
            except ModelError as error:
                found = error
            except OSError as error:
                found = ModelFormatError(f"model '{name}' cannot be read: {error.strerror or error}")
            if _state(manifest) == before:
                break
        if isinstance(found, ModelError):
            raise found
        return found

    def read_current(self, model: Model, read: Callable[[Model], T]) -> tuple[Model, T]:
        """Return the model and the result of `read` for it. If the model is replaced meanwhile, read the new one.

        Raises ModelNotFoundError if the model was removed, and any error of `read` for files that did not change.
        """
        manifest = model.manifest
        if manifest is None:
            return model, read(model)
        for _ in range(MAX_READS):
            before = _state(manifest)
            try:
                result = read(model)
            except (OSError, ModelError):
                if before is not None and _state(manifest) == before:
                    raise
                model = self.read_manifest(manifest)
            else:
                model, used = self.read_manifest(manifest), model
                if _state(manifest) == before and model == used:
                    break
        return model, result

    def state_of(self, model: Model) -> object:
        """Return a value that changes whenever a model of the store is made again, even from the same files."""
        return None if model.manifest is None else _state(model.manifest)

    def _read_manifest(self, name: str, manifest: Path) -> Model:
        if NAME.fullmatch(name) is None:
            raise ModelFormatError(f"{manifest.parent} has no valid model name; remove it, or move it out of the store")
        next_step = "remove the model, and create or pull it again"
        try:
            content = read_json(manifest)
        except ModelFormatError:
            content = {}
        spelled = content.get("name")
        if isinstance(spelled, str) and with_tag(spelled).lower() == name:
            name = spelled
        path = _path_of(content, manifest)
        if path is None:
            raise ModelFormatError(f"the manifest of model '{name}' is damaged; {next_step}")
        if (missing := _missing(path)) is not None:
            place = self.foreign_files.find(path)
            if place is None:
                raise ModelFormatError(f"the file {missing.name} of model '{name}' is missing; {next_step}")
            # A copy has no version. Its name is not known to any source.
            is_pulled = isinstance(content.get("version"), str)
            next_step = f"pull it again: pagoda pull {name}" if is_pulled else "remove the model, and create it again"
            raise ModelFormatError(
                f"the file {missing.name} of model '{name}' is no longer in {place.place}; {next_step}"
            )
        return replace(self._describe(name, path), manifest=manifest)

    def _read_ollamas(self, name: str, manifest: Path) -> Model:
        if NAME.fullmatch(name) is None:
            raise ModelFormatError(f"{manifest} has no valid model name")
        try:
            path = stored_blob(manifest, read_stored_model(manifest).weights)
        except ModelFormatError as error:
            raise ModelFormatError(f"model '{name}' of Ollama cannot be served: {error}") from None
        try:
            return replace(self._describe_checked(name, path), manifest=manifest, in_ollama_store=True)
        except ModelFormatError as error:
            # The path of a blob tells a user nothing.
            reason = str(error).removeprefix(f"{path}: ").replace(str(path), path.name)
            raise ModelFormatError(f"model '{name}' of Ollama cannot be served: {reason}") from None

    def _describe_checked(self, name: str, path: Path) -> Model:
        """Return the model in a file of Ollama. Its tensors are checked once, as those of our models when they are made."""
        state = file_state(path.stat())
        if reason := self._refused.get(state):
            raise ModelFormatError(reason)
        try:
            model = self._describe(name, path)
            if state not in self._refused:
                check_tensors(model)
        except ModelFormatError as error:
            self._refused[state] = str(error)
            raise
        self._refused[state] = ""
        return model

    def _ollama_store_of(self, manifest: Path) -> OllamaStore | None:
        return next((store for store in self.ollama_stores if store.has_manifest(manifest)), None)

    def _canonical_or_itself(self, name: str) -> str:
        try:
            return self.canonical_name(name)
        except ModelNotFoundError:
            return name

    def is_own(self, path: Path) -> bool:
        """Return True for a file that belongs to this store, False for one that a model of the store only names."""
        return path.is_relative_to(self.directory)

    def _get_path(self, path: Path) -> Model:
        try:
            path = path.expanduser()
            if not path.exists():
                raise ModelNotFoundError(f"no such file or directory: {str(path)!r}")
            if path.is_dir():
                path = path.resolve()
                return self._describe(path.name, path)
            # A link to a file is not followed, because the other parts of a model may be beside the link.
            path = first_part(path.parent.resolve() / path.name)
            return self._describe(model_stem(path), path)
        except (OSError, RuntimeError) as error:  # expanduser raises RuntimeError for an unknown user
            reason = getattr(error, "strerror", None) or error
            raise ModelFormatError(f"model {str(path)!r} cannot be read: {reason}") from None

    def _describe(self, name: str, path: Path) -> Model:
        """Return the model in the files. Descriptions are cached until the files change, because one takes tens of milliseconds."""
        files = model_files(path)
        # The key has no model name, because a copy shares the files of its original.
        key = tuple((file.name if len(files) > 1 else "", *file_state(file.stat())) for file in files)
        if (known := self._described.get(key)) is None:
            digest = self.foreign_files.digest_of(path) or self.digests.files_digest(files)
            known = describe(name, path, digest, size_bytes=sum(file.stat().st_size for file in files))
            self._described[key] = known
            while len(self._described) > MAX_DESCRIBED:
                self._described.popitem(last=False)
        return replace(known, name=name, path=path)


def _path_of(content: Mapping[str, Any], manifest: Path) -> Path | None:
    """Return the path of the model's file or directory: beside the manifest, or an absolute one. None if there is none."""
    file_name, path = content.get("file"), content.get("path")
    if isinstance(path, str) and Path(path).is_absolute():
        return Path(path)
    if isinstance(file_name, str) and Path(file_name).name == file_name:
        return manifest.parent / file_name
    return None


def _missing(path: Path) -> Path | None:
    """Return a file of the model that does not exist, or a link in the model's directory whose target does not exist."""
    if not path.is_dir():
        return next((file for file in part_paths(path) if not is_there(file)), None)
    return next((file for file in path.iterdir() if file.is_symlink() and not is_there(file)), None)


def _state(manifest: Path) -> tuple[int, int, int] | None:
    """Return a value that changes when the model is replaced, or None if the manifest does not exist."""
    try:
        status = manifest.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return (0, 0, 0)
    return status.st_ino, status.st_mtime_ns, status.st_size
