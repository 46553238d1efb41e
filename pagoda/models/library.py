"""Changes to the store: copies, deletions, and models made from others or from uploaded files.

A model is a directory of its own, whole: a copy shares the bytes of its files through hard links, so that it costs nothing
and deleting either leaves the other. Directories are prepared beside the store and put in place at once. Knows nothing
about HTTP and about what settings mean.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pagoda.models.blobs import BlobStore
from pagoda.models.description import describe
from pagoda.models.errors import ModelFormatError, ModelNotFoundError
from pagoda.models.file_lock import file_lock
from pagoda.models.model import Model
from pagoda.models.model_settings import MANIFEST, ModelSettings, read_settings
from pagoda.models.store import ModelStore

CHECKPOINT_DIRECTORY = "checkpoint"
# Weights, their index, configuration, tokenizer and chat template; not the pickles that may lie beside them.
CHECKPOINT_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")
GGUF_FILE = "model.gguf"

OnStatus = Callable[[str], None]


class ModelLibrary:
    def __init__(self, store: ModelStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    def copy(self, source: str, destination: str) -> None:
        self.copy_model(self.get(source), destination)

    def copy_model(self, model: Model, destination: str) -> None:
        self._put(destination, _files_of(model), read_settings(model))

    def delete(self, name: str) -> None:
        """Also of a model that is damaged."""
        if not self.has(name):
            raise ModelNotFoundError(f"model '{name}' not found")
        directory = self._directory(name)
        with file_lock(directory / ".lock"):
            self._blobs.forget_unused([path for path in directory.rglob("*") if path.is_file()])
            _remove(directory)
        with suppress(OSError):
            directory.parent.rmdir()  # unless it has other tags

    def create_from_model(self, name: str, base: Model, settings: ModelSettings, on_status: OnStatus) -> None:
        """`base` under another name, with these settings where they say something, and its own where they do not."""
        inherited = read_settings(base)
        parameters = {**inherited.parameters, **settings.parameters}
        merged = {**inherited.to_json(), **settings.to_json(), "parent": base.name, "parameters": parameters}
        on_status(f"using existing layer sha256:{base.digest}")
        self._put(name, _files_of(base), ModelSettings(**merged), on_status)

    def create_from_files(
        self, name: str, files: Mapping[str, Path], settings: ModelSettings, on_status: OnStatus
    ) -> None:
        """From one GGUF file, or from the files of a safetensors checkpoint by the names they have in it."""
        named = _as_model_files(files)
        on_status("parsing GGUF" if GGUF_FILE in named else "converting model")
        self._put(name, named, settings, on_status)

    def get(self, name: str) -> Model:
        """Only of the store and only by name: a caller from afar must not be able to probe paths."""
        if not self.has(name):
            raise ModelNotFoundError(f"model '{name}' not found")
        return self._store.read_manifest(self._directory(name) / MANIFEST)

    def has(self, name: str) -> bool:
        try:
            return (self._directory(name) / MANIFEST).exists()
        except ModelNotFoundError:
            return False

    def _directory(self, name: str) -> Path:
        return self._store.manifest_path(self._store.canonical_name(name)).parent

    def _put(
        self, name: str, files: Mapping[str, Path], settings: ModelSettings, on_status: OnStatus = lambda status: None
    ) -> None:
        target = self._directory(name)
        with _scratch(self._store.directory) as scratch:
            for relative, source in files.items():
                _link(source, scratch / relative)
            root = next(iter(files)).partition("/")[0]
            _refuse_damaged(scratch / root)
            on_status("writing manifest")
            content = {"name": self._store.canonical_name(name), "file": root, "settings": settings.to_json()}
            (scratch / MANIFEST).write_text(json.dumps(content, indent=1))
            with file_lock(target / ".lock"):
                _replace_directory(scratch, target)


def _files_of(model: Model) -> dict[str, Path]:
    """By their places in a model's directory."""
    if model.path.is_file():
        return {GGUF_FILE: model.path}
    files = sorted(file for file in model.path.iterdir() if file.is_file() and file.suffix in CHECKPOINT_SUFFIXES)
    return {f"{CHECKPOINT_DIRECTORY}/{file.name}": file for file in files}


def _as_model_files(files: Mapping[str, Path]) -> dict[str, Path]:
    for name in files:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ModelFormatError(f"file path must be relative and without folders, got {name[:100]!r}")
    if any(name.endswith(".safetensors") for name in files):
        return {f"{CHECKPOINT_DIRECTORY}/{name}": path for name, path in files.items()}
    if len(files) != 1:
        raise ModelFormatError("a model is one GGUF file, or a checkpoint with a .safetensors file")
    return {GGUF_FILE: next(iter(files.values()))}


def _refuse_damaged(path: Path) -> None:
    try:
        describe(path.name, path, digest="", size_bytes=0)
    except ModelFormatError as error:
        # The place is ours, and only for now: the sentence is about the file.
        raise ModelFormatError(str(error).replace(str(path), path.name)) from None


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """On the store's file system, so that links and renames work; gone afterwards unless it was put in place."""
    directory.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory, prefix=".new-"))
    scratch.chmod(0o755)  # like its neighbours: mkdtemp makes it private
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copy2(source, target)


def _replace_directory(source: Path, target: Path) -> None:
    if target.exists():
        _remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, target)


def _remove(directory: Path) -> None:
    """Out of sight at once, then file by file."""
    removed = Path(tempfile.mkdtemp(dir=directory.parent.parent, prefix=".old-"))
    os.rename(directory, removed)  # over an empty directory
    shutil.rmtree(removed)
