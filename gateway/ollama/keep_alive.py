"""How long a model is to stay loaded after its last request, as clients last wished it.

A worker holds its model for as long as it lives, so a wish is remembered and shown, and nothing is unloaded. Knows nothing
about models but their names.
"""

import math
import re
import time
from datetime import UTC, datetime, timedelta

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
    def __init__(self) -> None:
        self._duration_s: dict[str, float] = {}
        self._used_at: dict[str, float] = {}

    def used(self, model_name: str, keep_alive: float | str | None) -> None:
        """A request that says nothing leaves the wish of the one before."""
        self._used_at[model_name] = time.time()
        if keep_alive is not None:
            self._duration_s[model_name] = parse_keep_alive(keep_alive)

    def expires_at(self, model_name: str) -> str:
        duration_s = self._duration_s.get(model_name, math.inf)
        if duration_s == math.inf:
            return FOREVER
        moment = datetime.fromtimestamp(self._used_at[model_name], UTC) + timedelta(seconds=duration_s)
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
