"""The environment that all tests start from."""

import functools
import os
import tempfile
from collections.abc import Iterator

import httpx
import hypothesis
import pytest

# GPU kernels run in Triton's interpreter here. Triton reads this when kernels are defined, so it is set before any import.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Tiny models finish before a second thread wakes up; on a busy machine threads would only wait for each other. Worker processes
# that tests start choose their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests fork only to start another program. gRPC would start its threads in the child, and closing the files there makes these
# threads abort it. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# The developer's cache of the hub, token and mirror. huggingface_hub reads these when it is imported.
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "HUGGING_FACE_"))]:
    del os.environ[_name]
os.environ.pop("TRANSFORMERS_OFFLINE", None)
_hub_home = tempfile.TemporaryDirectory(prefix="no-hub-")
os.environ["HF_HOME"] = _hub_home.name


# The duration of an example depends on how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def _certificates_are_read_once() -> Iterator[None]:
    """Cache the certificates of all authorities: every httpx client reads them, which takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> None:
    """Remove the developer's PAGODA_… variables, except PAGODA_TEST_HOME, which is for tests."""
    for name in [name for name in os.environ if name.startswith("PAGODA_") and name != "PAGODA_TEST_HOME"]:
        del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def _no_sources_outside(_no_settings_from_outside: None) -> Iterator[None]:
    """Let the hub and the registry be at an address where nothing answers, unless a test starts its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        patch.setenv("PAGODA_REGISTRY", "http://127.0.0.1:1")
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_ollama_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the developer's own Ollama store, whose models every store would list."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_MODELS", str(tmp_path_factory.mktemp("no-ollama")))
        yield
