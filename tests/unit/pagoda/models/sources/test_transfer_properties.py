"""Any sequence of faults ends with the exact file or an error, and a download without faults after it has the file."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagoda.models.errors import ModelSourceError
from pagoda.models.sources import partial_file
from tests.fakes.downloads import Downloads, some_bytes
from tests.fakes.file_server import Fault, FileServer

CONTENT = some_bytes(3_333)
"""A file of four pieces."""
OTHER = some_bytes(3_333, seed=1)

positions = st.integers(0, len(CONTENT))
honest_faults = st.one_of(
    st.builds(Fault, status=st.sampled_from([408, 416, 429, 500, 503])),
    st.builds(Fault, cut_after=positions, has_ranges=st.booleans(), has_length=st.booleans()),
    st.builds(Fault, has_ranges=st.just(False)),
    st.builds(
        Fault, headers=st.sampled_from([{"Content-Range": "bytes 0-9/*"}, {"Content-Range": "bytes 5-999/3333"}])
    ),
    st.builds(Fault, headers=st.sampled_from([{"Content-Type": "text/html"}, {"Content-Encoding": "gzip"}])),
    st.builds(Fault, headers=st.sampled_from([{"ETag": '"other"'}, {"ETag": 'W/"weak"'}]), cut_after=positions),
    st.builds(Fault, surplus=st.binary(min_size=1, max_size=9)),
)
"""Faults whose bytes are those of the file."""
lies = st.one_of(
    st.builds(Fault, body=st.builds(lambda end: OTHER[:end], positions), has_length=st.booleans()),
    st.builds(Fault, body=st.just(OTHER), has_ranges=st.booleans(), cut_after=positions),
)
"""Faults whose bytes are wrong, which only a digest shows."""


@pytest.mark.parametrize("digest", ["sha256", "git_oid", None])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_faults(
    digest: str | None, data: st.DataObject, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_file, "MIN_PIECE_BYTES", 1_000)
    monkeypatch.setattr(partial_file, "HASH_STEP_BYTES", 500)
    kinds = honest_faults if digest is None else st.one_of(honest_faults, lies)
    faults: Sequence[Sequence[Fault]] = data.draw(st.lists(st.lists(kinds, max_size=12), max_size=3))
    with tempfile.TemporaryDirectory() as directory:
        downloads = Downloads(server, Path(directory))
        file = downloads.serve("model.gguf", CONTENT, digest=digest)
        for of_one_download in faults:
            server.faults = [*of_one_download]
            try:
                downloads.run(file)
            except ModelSourceError:
                assert not downloads.target(file).exists()
        server.faults = []
        downloads.run(file)
