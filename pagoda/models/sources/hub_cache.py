"""The cache of the Hugging Face hub on this machine, in the layout that vLLM, transformers and llama.cpp share.

    models--ORG--REPO/refs/REVISION            the commit of a branch or tag
    models--ORG--REPO/blobs/ETAG               contents, by their SHA-256, or by git's SHA-1 for small files
    models--ORG--REPO/snapshots/COMMIT/PATH    links to contents
    models--ORG--REPO/trees/COMMIT.json        the listing of a commit, which only huggingface_hub writes
    .locks/models--ORG--REPO/ETAG.lock         locks between processes

An unfinished download is beside its blob. huggingface_hub does not check what it downloads, so every content is verified before
use.
"""

import errno
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from pagoda.models.errors import ModelSourceError
from pagoda.models.sources.hub_files import GIT_OID, SHA256
from pagoda.models.sources.remote import RemoteFile
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.transfer import PARTIAL_SUFFIX

ABANDONED_AFTER_S = 14 * 24 * 3600
_TREE_FORMAT = 1
_CHUNK_BYTES = 1 << 20
_LOCK_POLL_S = 1.0
# Errors of file systems without symbolic links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n"
)

logger = logging.getLogger(__name__)

OnBytes = Callable[[RemoteFile, int], None]
"""Function that receives how many bytes of a file are here. If it raises, the work ends."""


def cache_directory(settings: SourceSettings) -> Path:
    return settings.hub_cache or Path(constants.HF_HUB_CACHE)


def find_repo(root: Path, repo: str) -> str | None:
    """Return the spelling of a repository that the cache has, whatever its case, or None."""
    wanted = repo_folder_name(repo_id=repo, repo_type="model")
    try:
        folders = [folder.name for folder in root.iterdir() if folder.name.lower() == wanted.lower()]
    except OSError:
        return None
    best = wanted if wanted in folders else min(folders, default=None)
    return None if best is None else best.removeprefix("models--").replace("--", "/", 1)


class HubCache:
    """The cache of one repository."""

    def __init__(self, root: Path, repo: str) -> None:
        name = repo_folder_name(repo_id=repo, repo_type="model")
        self._root = root
        self._folder = root / name
        self._blobs = self._folder / "blobs"
        self._locks = root / ".locks" / name

    def snapshot(self, commit: str) -> Path:
        return self._folder / "snapshots" / commit

    def commit(self, revision: str) -> str | None:
        """Return the commit that a revision had when it was last downloaded, or None."""
        if GIT_OID.fullmatch(revision):
            return revision
        try:
            commit = (self._folder / "refs" / revision).read_text().strip()
        except (OSError, ValueError):
            return None
        return commit if GIT_OID.fullmatch(commit) else None

    def list_files(self, commit: str) -> list[RemoteFile]:
        """Return the listing of a commit if huggingface_hub has kept it, else the files that are here."""
        try:
            content = json.loads((self._folder / "trees" / f"{commit}.json").read_bytes())
            if content["format_version"] == _TREE_FORMAT:
                return [_listed(path, entry) for path, entry in content["files"].items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # missing or damaged, or of a later version
        snapshot = self.snapshot(commit)
        paths = (Path(folder, name) for folder, _, names in os.walk(snapshot) for name in names)
        return [_present(path, snapshot) for path in sorted(paths) if path.is_file()]

    def has(self, commit: str, file: RemoteFile) -> bool:
        """Return True if the file is here in its full size. `fetch` verifies its content."""
        return self._find(commit, file) is not None

    def read(self, commit: str, file: RemoteFile) -> bytes | None:
        """Return the content of a small file, or None if it is not here."""
        path = self._find(commit, file)
        try:
            return None if path is None else path.read_bytes()
        except OSError:
            return None

    def forget_abandoned(self) -> None:
        """Delete unfinished downloads of all repositories that were not resumed for two weeks, or whose file another program has
        completed. No other program deletes them."""
        for partial in self._root.glob(f"models--*/blobs/*{PARTIAL_SUFFIX}*"):
            with suppress(OSError):
                is_superseded = partial.with_name(partial.name.partition(PARTIAL_SUFFIX)[0]).exists()
                if is_superseded or time.time() - partial.stat().st_mtime > ABANDONED_AFTER_S:
                    partial.unlink()

    def fetch(
        self,
        commit: str,
        files: Sequence[RemoteFile],
        download: Callable[[dict[Path, RemoteFile]], None],
        on_bytes: OnBytes,
    ) -> dict[str, Path]:
        """Return the files' paths in the snapshot, verified. `download` brings missing files to the given paths.

        Raises ModelSourceError if the cache cannot be written, and what `download` and `on_bytes` raise.
        """
        snapshot = self.snapshot(commit)
        missing = [file for file in files if not self._is_usable(commit, file, on_bytes)]
        if missing or not all(self._is_linked(commit, file) for file in files):
            with self._writing():
                self._create()
            with self._locked(missing, on_bytes):
                # Another program may have downloaded them before this process had the locks.
                missing = [file for file in missing if not self._is_usable(commit, file, on_bytes)]
                if missing:
                    download({self._blob(file): file for file in missing})
                with self._writing():
                    self._link_all(commit, [file for file in files if not self._is_linked(commit, file)], new=missing)
        for file in files:
            on_bytes(file, file.size_bytes)
        return {file.path: snapshot / file.path for file in files}

    def discard(self, commit: str, file: RemoteFile) -> None:
        """Delete a file with a wrong content, so that it can be downloaded again."""
        with self._writing():
            (self.snapshot(commit) / file.path).unlink(missing_ok=True)
            self._blob(file).unlink(missing_ok=True)

    def write_ref(self, revision: str, commit: str) -> None:
        """Note the commit of a revision, unless the cache cannot be written."""
        if revision == commit or self.commit(revision) == commit:
            return
        ref = self._folder / "refs" / revision
        with suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{uuid.uuid4().hex[:8]}.tmp")
            temporary.write_text(commit)
            os.replace(temporary, ref)

    def _blob(self, file: RemoteFile) -> Path:
        assert file.digest is not None
        return self._blobs / file.digest

    def _find(self, commit: str, file: RemoteFile) -> Path | None:
        pointer = self.snapshot(commit) / file.path
        for path in (pointer, self._blob(file)) if file.digest is not None else (pointer,):
            with suppress(OSError):
                if path.is_file() and path.stat().st_size == file.size_bytes:
                    return path
        return None

    def _is_usable(self, commit: str, file: RemoteFile, on_bytes: OnBytes) -> bool:
        path = self._find(commit, file)
        try:
            return path is not None and _has_content(path, file, on_bytes)
        except PermissionError:
            return False

    def _is_linked(self, commit: str, file: RemoteFile) -> bool:
        pointer = self.snapshot(commit) / file.path
        with suppress(OSError):
            return pointer.is_file() and pointer.stat().st_size == file.size_bytes
        return False

    def _create(self) -> None:
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(parents=True, exist_ok=True)
        if not (tag := self._root / "CACHEDIR.TAG").exists():
            tag.write_text(_TAG)

    @contextmanager
    def _locked(self, files: Sequence[RemoteFile], on_bytes: OnBytes) -> Iterator[None]:
        """Hold the library's locks of the files. They are taken in order, so that processes do not wait for each other in turn."""
        by_etag = {file.digest: file for file in files}
        with ExitStack() as stack:
            for etag in sorted(filter(None, by_etag)):
                is_logged = False
                while True:
                    try:
                        stack.enter_context(WeakFileLock(self._locks / f"{etag}.lock", timeout=_LOCK_POLL_S))
                        break
                    except TimeoutError:
                        if not is_logged:
                            file = by_etag[etag].path
                            logger.info("waiting for another program's download", extra={"file": file, "etag": etag})
                        is_logged = True
                        on_bytes(by_etag[etag], 0)  # ends the wait if the caller has given up
                    except OSError as error:
                        raise self._unwritable(error) from error
            yield

    def _link_all(self, commit: str, files: Sequence[RemoteFile], new: Sequence[RemoteFile]) -> None:
        """Link contents into the snapshot. Without symbolic links, new contents are moved there, as huggingface_hub does."""
        moved = [file for file in files if not self._link(commit, file)]
        for file in moved:
            if file in new:
                self._blob(file).unlink(missing_ok=True)

    def _link(self, commit: str, file: RemoteFile) -> bool:
        """Link a content into the snapshot. Return False if the file there is not a symbolic link."""
        blob, pointer = self._blob(file), self.snapshot(commit) / file.path
        pointer.parent.mkdir(parents=True, exist_ok=True)
        temporary = pointer.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
        can_link = not constants.HF_HUB_DISABLE_SYMLINKS
        if can_link and (is_linked := _try(os.symlink, Path(os.path.relpath(blob, pointer.parent)), temporary)):
            pass
        elif not _try(os.link, blob, temporary):
            is_linked = False
            shutil.copyfile(blob, temporary)
        try:
            os.replace(temporary, pointer)
        except OSError:
            temporary.unlink()
            raise
        return can_link and is_linked

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ModelSourceError:
        return ModelSourceError(
            f"the hub's cache {self._root} cannot be written: {error.strerror or error}; "
            "make space or set HF_HUB_CACHE to another directory"
        )


def _listed(path: str, entry: dict[str, object]) -> RemoteFile:
    match entry:
        case {"lfs_sha256": str(sha256), "lfs_size": int(size)}:
            return RemoteFile(path=path, size_bytes=size, sha256=sha256, git_oid=None)
        case {"blob_id": str(oid), "size": int(size)}:
            return RemoteFile(path=path, size_bytes=size, sha256=None, git_oid=oid)
    raise ValueError


def _present(path: Path, snapshot: Path) -> RemoteFile:
    """Return a file of a snapshot. The name of the blob that it links to tells the digest."""
    digest = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return RemoteFile(
        path=path.relative_to(snapshot).as_posix(),
        size_bytes=path.stat().st_size,
        sha256=digest if SHA256.fullmatch(digest) else None,
        git_oid=digest if GIT_OID.fullmatch(digest) else None,
    )


def _has_content(path: Path, file: RemoteFile, on_bytes: OnBytes) -> bool:
    if file.digest is None:
        return True  # the cache names no digest
    digest = file.new_hash()
    num_bytes = 0
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
            on_bytes(file, num_bytes)
    return digest.hexdigest() == file.digest


def _try(link: Callable[[Path, Path], None], source: Path, target: Path) -> bool:
    """Make a link. Return False if the file system has no links of this kind."""
    try:
        link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True
