"""How long a model is to stay loaded after its last request, as clients last wished it.

A worker holds its model for as long as it lives, so a wish is remembered and shown until its time is over, and nothing is
unloaded. Knows nothing about models but their names.
"""

import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

# Models are never unloaded; Ollama shows such a one as a date that nobody will see.
FOREVER = "2318-01-01T00:00:00Z"
LONGEST_S = 200 * 365 * 86400
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse_keep_alive(value: float | str) -> float:
    """Seconds; infinity for a negative duration, which means forever."""
    if isinstance(value, str):
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))
        seconds = -seconds if value.startswith("-") else seconds
    else:
        seconds = value
    return math.inf if seconds < 0 or seconds > LONGEST_S else float(seconds)


class KeepAlive:
    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._duration_s: dict[str, float] = {}
        self._used_at: dict[str, float] = {}

    def used(self, model_name: str, keep_alive: float | str | None) -> None:
        """A request that says nothing leaves the wish of the one before."""
        self._used_at[model_name] = self._now()
        if keep_alive is not None:
            self._duration_s[model_name] = parse_keep_alive(keep_alive)

    def expires_at(self, model_name: str) -> str:
        expires_at = self._used_at.get(model_name, 0.0) + self._duration_s.get(model_name, math.inf)
        # A model whose time is over, at once with a keep_alive of 0, stays loaded all the same. A date in the past would
        # promise that it is on its way out: `ps` would say "Stopping..." of it for as long as the worker lives.
        if expires_at == math.inf or expires_at <= self._now():
            return FOREVER
        moment = datetime.fromtimestamp(expires_at, UTC)
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
