"""What tests of every kind share: the environment they start from."""

import functools
import os
from collections.abc import Iterator

import httpx
import hypothesis
import pytest

# GPU kernels run in Triton's interpreter here. Triton looks when kernels are defined, so this comes before any import of it.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Tiny models are done before a second thread has woken; on a busy machine the threads would only wait for each other. Workers
# that tests start as processes choose for themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes are forked here only to become another program. gRPC would start its threads in them, and the closing of files
# that follows makes those abort the process. Read when gRPC is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def _certificates_are_read_once() -> Iterator[None]:
    """Every httpx client reads those of all authorities, to trust whom it will never meet: that takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> None:
    """The developer's own PAGODA_… variables must not decide a test. PAGODA_TEST_HOME is the tests' own."""
    for name in [name for name in os.environ if name.startswith("PAGODA_") and name != "PAGODA_TEST_HOME"]:
        del os.environ[name]
