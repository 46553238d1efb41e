"""Pulls that requests for text start, if the setting `pull_on_demand` allows it.

The setting is the consent of the administrator: a request needs no scope `admin` for it. So only a few such pulls run at a time,
and only public places are asked: a name with a host of its own could make this server connect to any address.
"""

import time
from collections import OrderedDict

from gateway.errors import ErrorKind, GatewayError
from gateway.models.pulls import Pull, Pulls
from pagoda.models.errors import ModelNotFoundError, some_names
from pagoda.models.names import LIBRARY_HOST, RegistryName, parse_name

MAX_PULLS = 2
"""Number of pulls on demand that may run at a time."""
BUSY_RETRY_S = 30.0
FAILURE_TTL_S = 30.0
"""Time, in seconds, in which further requests get the error of a failed pull. Clients repeat requests that fail."""
MAX_FAILURES = 1024


class PullOnDemand:
    """The pulls that requests for text have started."""

    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls
        self._running: dict[str, Pull] = {}
        self._failures: OrderedDict[str, tuple[float, GatewayError]] = OrderedDict()

    async def pull(self, name: str) -> None:
        """Pull the model and wait until it is here. `name` must be valid. The pull continues if the client leaves."""
        key = self._pulls.canonical_name(name)
        self._refuse_failed(key)
        self._running = {each: pull for each, pull in self._running.items() if not pull.task.done()}
        if key not in self._running and len(self._running) >= MAX_PULLS:
            names = some_names(sorted(self._running))
            raise GatewayError(
                ErrorKind.OVERLOADED,
                f"The model `{name}` is not here, and the server is already downloading {names}; try again later.",
                param="model",
                retry_after_s=BUSY_RETRY_S,
            )
        pull = self._running[key] = self._pulls.watch_pull(name)
        try:
            await pull.result()
        except GatewayError as error:
            self._failures[key] = time.monotonic() + FAILURE_TTL_S, error
            self._failures.move_to_end(key)
            while len(self._failures) > MAX_FAILURES:
                self._failures.popitem(last=False)
            raise

    def _refuse_failed(self, key: str) -> None:
        until, error = self._failures.get(key, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise GatewayError(error.kind, error.message, param=error.param, code=error.code)
        self._failures.pop(key, None)


def may_pull_on_demand(name: str) -> bool:
    """Return True for the name of a model of the Hugging Face hub or of Ollama's library."""
    try:
        place = parse_name(name)
    except ModelNotFoundError:
        return False
    return not isinstance(place, RegistryName) or place.host == LIBRARY_HOST
