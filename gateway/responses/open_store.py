"""The factory of the store of responses that a setting names."""

from gateway.responses.store import MemoryResponseStore, ResponseStore, StoreLimits
from kvcache.index_url import MEMORY, check_index_url


def open_response_store(url: str, limits: StoreLimits) -> ResponseStore:
    """Open `memory`, or the Redis or Valkey server of a URL. It connects at first use."""
    if url == MEMORY:
        return MemoryResponseStore(limits)
    check_index_url(url)
    # Imported only here, because the Redis client is slow to import, and a single gateway does not need it.
    from gateway.responses.redis_store import RedisResponseStore

    return RedisResponseStore(url, limits)
