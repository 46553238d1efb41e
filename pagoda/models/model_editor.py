"""Changes to the store: copies and deletes models, and makes them from others or from uploaded files.

Each model has its own complete directory. A copy shares the bytes of its files through hard links, so that it takes no space and
either can be deleted alone. Files of other programs stay where they are, and models of the store only name them (foreign_files.py).
Directories are prepared in a scratch directory and moved into place atomically, so that a model is never missing while it is
replaced.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from pagoda.models.blobs import BlobStore
from pagoda.models.chat_template_choice import choose_chat_template
from pagoda.models.digest import write_atomically
from pagoda.models.errors import ModelError, ModelFormatError, ModelNotFoundError, ModelOwnerError
from pagoda.models.foreign_files import ForeignFiles, ForeignPlace
from pagoda.models.formats.description import describe, files_to_copy
from pagoda.models.formats.gguf_parts import PartName, missing_part
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.layout import MANIFEST, remove_if_empty
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.names import normalize_name
from pagoda.models.packed_weights import remove_packed
from pagoda.models.scratch import Scratch, put_in_place, writing
from pagoda.models.sources.remote import RemoteModel
from pagoda.models.sources.source import Fetched
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_settings, read_source

CHECKPOINT_DIRECTORY = "checkpoint"
GGUF_FILE = "model.gguf"

OnStatus = Callable[[str], None]
Check = Callable[[Model, ModelSettings], None]
"""A function that raises ModelFormatError for a model that could be made but not used."""


class ModelEditor:
    """Operations that change a store. They raise ModelError."""

    def __init__(self, store: ModelStore, blobs: BlobStore, check: Check = lambda model, settings: None) -> None:
        """Use `check` for each new model, in addition to the check of its tensors."""
        self._check = check
        self._store = store
        self._layout = store.layout
        self._blobs = blobs
        self._scratch = Scratch(store.layout)

    def copy(self, source: str, destination: str) -> None:
        self.copy_model(self.get(source), destination)

    def copy_model(self, model: Model, destination: str) -> None:
        with self._linked(model) as (model, settings, files):
            stays_at = None if files else model.path
            self._put(destination, files, settings, stays_at=stays_at, facts=_origin(model), is_new=False)

    def delete(self, name: str) -> None:
        """Delete a model, also a damaged one, but no files that stay where they are."""
        self.check_deletable(name)
        digest = self._digest(name)
        with writing("change"), self._scratch.directory() as scratch, self._layout.changing():
            self._layout.move_old_directories()
            directory = self.check_deletable(name).parent
            os.rename(directory, scratch / "old")
            remove_if_empty(directory.parent)  # it may have other tags
            self._forget(scratch / "old")
        if digest not in {model.digest for model in self._store.list()}:
            remove_packed(self._layout.models.parent, digest)

    def _digest(self, name: str) -> str:
        """Return the model's digest; an empty string for a damaged model."""
        try:
            return self.get(name).digest
        except ModelError:
            return ""

    def check_deletable(self, name: str) -> Path:
        """Return the model's manifest. Raises ModelNotFoundError, or ModelOwnerError for a model of an Ollama installation."""
        manifest = self._manifest(name)
        if self._store.is_ollamas(manifest):
            theirs = self._store.name_at(manifest)
            raise ModelOwnerError(f"model '{theirs}' belongs to Ollama; remove it there: ollama rm {theirs}")
        return manifest

    @property
    def foreign_files(self) -> ForeignFiles:
        return self._store.foreign_files

    def find_foreign_files(self, name: str) -> ForeignPlace | None:
        """Return where the files of a model of the store stay after it is deleted, or None if they are deleted with it."""
        return self._store.foreign_place_of(self._manifest(name))

    def create_from_model(
        self,
        name: str,
        base: Model,
        settings: ModelSettings,
        on_status: OnStatus,
        *,
        template_name: str = "template",
    ) -> None:
        """Make a model with the weights of `base`. Settings that are empty are taken from `base`.

        `template_name` is the place of the settings' template, for messages about it.
        """
        with self._linked(base) as (base, inherited, files):
            parameters = {**inherited.parameters, **settings.parameters}
            merged = {**inherited.to_json(), **settings.to_json(), "parent": base.name, "parameters": parameters}
            on_status(f"using existing layer sha256:{base.digest}")
            stays_at = None if files else base.path
            self._put(
                name,
                files,
                ModelSettings(**merged),
                on_status,
                stays_at=stays_at,
                facts=_origin(base),
                template_name=template_name if settings.template else None,
            )

    def create_from_files(
        self,
        name: str,
        files: Mapping[str, Path],
        settings: ModelSettings,
        on_status: OnStatus,
        *,
        template_name: str = "template",
    ) -> None:
        """Make a model from files by their names: one GGUF file, all parts of one, or a safetensors checkpoint."""
        named = _as_model_files(files)
        on_status("parsing GGUF" if min(named).endswith(".gguf") else "converting model")
        stays_at = self._store.foreign_files.find_common(files)
        self._put(
            name,
            named if stays_at is None else {},
            settings,
            on_status,
            stays_at=stays_at,
            template_name=template_name if settings.template else None,
        )

    def put_fetched(
        self, name: str, remote: RemoteModel, fetched: Fetched, more_facts: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Store a model that was just downloaded under its name. Its files are linked, unless they stay where they are.

        `more_facts` are further entries of its manifest. The caller must hold the lock for pulling the model.
        """
        facts = {"name": remote.name, "source": remote.source, "version": remote.version, **more_facts}
        taken_over = fetched.files if fetched.stays_at is None else {}
        files = {stored_path(remote, path): file for path, file in taken_over.items()}
        self._put(name, files, remote.settings, stays_at=fetched.stays_at, facts=facts, is_locked=True)

    def refuse_unusable(self, path: Path, settings: ModelSettings, shown: str = "") -> Model:
        """Return the model in these files. Raises ModelFormatError if it cannot be used. Of weights, only the headers are read.

        Messages name the model as in `shown`, by default as the file.
        """
        try:
            model = describe(path.name, path, digest="", size_bytes=0)
            check_tensors(model)
            self._check(model, settings)
        except ModelFormatError as error:
            # The path is a temporary one of ours, or one in a cache. Other parts are beside it.
            message = str(error).replace(str(path), shown or path.name).replace(f"{path.parent}/", "")
            raise ModelFormatError(message if shown in message else f"{shown}: {message}") from None
        return model

    def get(self, name: str) -> Model:
        """Return a model of the store by its name. Paths are not accepted, so that remote clients cannot probe them."""
        return self._store.read_manifest(self._manifest(name))

    def has(self, name: str) -> bool:
        try:
            self._manifest(name)
        except ModelNotFoundError:
            return False
        return True

    def _manifest(self, name: str) -> Path:
        try:
            manifest = self._store.find(name)
        except ModelNotFoundError:
            manifest = None
        if manifest is None:
            raise ModelNotFoundError(f"model '{name}' not found")
        return manifest

    @contextmanager
    def _linked(self, model: Model) -> Iterator[tuple[Model, ModelSettings, Mapping[str, Path]]]:
        """Yield a consistent snapshot of the model, its settings, and links to its files that survive changes to the model."""
        with writing("model"), self._scratch.directory() as scratch:

            def link(model: Model) -> tuple[ModelSettings, Mapping[str, Path]]:
                shutil.rmtree(scratch / "base", ignore_errors=True)
                files = {} if self._stays(model) else _files_of(model)
                for relative, source in files.items():
                    self._link(source, scratch / "base" / relative)
                return read_settings(model), {relative: scratch / "base" / relative for relative in files}

            model, (settings, files) = self._store.read_current(model, link)
            yield model, settings, files

    def _put(
        self,
        name: str,
        files: Mapping[str, Path],
        settings: ModelSettings,
        on_status: OnStatus = lambda status: None,
        *,
        stays_at: Path | None = None,
        facts: Mapping[str, Any] = MappingProxyType({}),
        is_new: bool = True,
        is_locked: bool = False,
        template_name: str | None = None,
    ) -> None:
        """Write a model's directory and move it into place. `stays_at` is the path of weights that stay where they are.

        `is_locked` is True if the caller holds the lock for pulling the model. With `template_name`, an unknown Go template
        raises an error, and one that is not used is a status.
        """
        name = normalize_name(name)  # a model made as qwen3 does not replace a pulled qwen3:8b
        target = self._layout.directory(name)
        with writing("model"), self._scratch.directory() as scratch:
            made = scratch / "new"
            for relative, source in files.items():
                self._link(source, made / relative)
            root = min(files).partition("/")[0] if files else ""  # the first part of a GGUF file that is split
            if is_new:
                model = self.refuse_unusable(stays_at or made / root, settings, name if stays_at is not None else "")
                choice = choose_chat_template(model, settings, template_name) if template_name else None
                if choice is not None and choice.warning:
                    on_status(f"warning: {choice.warning}")
            on_status("writing manifest")
            place = {"file": root} if stays_at is None else {"path": str(stays_at)}
            content = {"name": name, **place, "settings": settings.to_json(), **facts}
            write_atomically(made / MANIFEST, json.dumps(content, indent=1))
            # The lock keeps a pull of this model from using its directory at the same time.
            with nullcontext() if is_locked else self._layout.pulling(target), self._layout.changing():
                self._layout.move_old_directories()
                if put_in_place(made, target):
                    self._forget(made)

    def _forget(self, directory: Path) -> None:
        """Delete a model that was moved away. The caller holds the lock: otherwise two deletions could each keep a shared blob."""
        self._blobs.forget_unused(directory)
        shutil.rmtree(directory, ignore_errors=True)

    def _stays(self, model: Model) -> bool:
        """Return True if the model's files stay where they are: in the hub's cache, or in the store of an Ollama installation."""
        if self._store.is_own(model.path):
            return False
        return model.manifest is not None or self._store.foreign_files.find(model.path) is not None

    def _link(self, source: Path, target: Path) -> None:
        """Link a file, or copy one that cannot be linked or belongs to another program, in whose store no link count may change."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self._store.foreign_files.find(source) is None:
                os.link(source.resolve(), target)
            else:
                shutil.copyfile(source, target)
        except FileNotFoundError:
            # Without the directory, which clients must not learn.
            raise ModelNotFoundError(f"the file {source.name} no longer exists") from None
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copy2(source, target)


def stored_path(remote: RemoteModel, path: str) -> str:
    """Return the path in a model's directory of a file that its source has at `path`.

    The parts of a GGUF file that is split may be in a folder of the source, but all are in the same one.
    """
    return PurePosixPath(path).name if remote.root else f"{CHECKPOINT_DIRECTORY}/{path}"


def _origin(model: Model) -> dict[str, str]:
    """Return where the weights came from. Copies keep it, but not the version, because a copy does not follow its source."""
    source = read_source(model)
    return {} if source is None else {"source": source}


def _files_of(model: Model) -> dict[str, Path]:
    """Return the model's files by their relative paths in a model's directory."""
    return _as_model_files({file.name: file for file in files_to_copy(model.path)})


def _as_model_files(files: Mapping[str, Path]) -> dict[str, Path]:
    for name in files:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ModelFormatError(f"file path must be relative and without directories (got {name[:100]!r})")
    if any(name.endswith(".safetensors") for name in files):
        return {f"{CHECKPOINT_DIRECTORY}/{name}": path for name, path in files.items()}
    return _as_gguf_files(files)


def _as_gguf_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return a GGUF file under the store's name for it, or all parts of one under their own names. Raises ModelFormatError."""
    name = min(files, default="")
    part = PartName.parse(name)
    expected = [name] if part is None else part.all_names()
    if not files or files.keys() - set(expected):
        raise ModelFormatError(
            "the files must be one GGUF file, all parts of one (NAME-00001-of-00002.gguf, …), "
            "or a checkpoint with a .safetensors file"
        )
    for missing in sorted(set(expected) - files.keys()):
        raise ModelFormatError(missing_part(Path(missing)))
    return {GGUF_FILE: files[name]} if part is None else dict(files)
