"""How much of the server one connection may take: bytes and time of a request's head, time of its body, and a place.

uvicorn's protocol has no such limits. Knows nothing about requests beyond their framing.
"""

import resource
from collections import Counter
from dataclasses import dataclass, field

# Beside those of connections: the scheduler, models' files, template processes, logs.
RESERVED_FILES = 96
MIN_BODY_BYTES = 16 * 1024
"""At least so much of a body must arrive in each `body_timeout_s`, if that is not its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPLimits:
    """Seconds and bytes. GatewaySettings says what each one means."""

    max_header_bytes: int = 64 * 1024
    header_timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    write_timeout_s: float = 300.0
    max_connections: int = 4096
    max_connections_per_address: int | None = None
    per_address: Counter[str] = field(default_factory=Counter)
    """Open connections; the protocols keep it."""

    @property
    def num_places(self) -> int:
        """Connections that may be open at once. The process's limit of open files leaves room for those only."""
        num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if num_files == resource.RLIM_INFINITY:
            return self.max_connections
        return min(self.max_connections, max(num_files - RESERVED_FILES, num_files // 2))
