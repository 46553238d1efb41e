"""The factory of the prefix index that a setting names."""

from kvcache.index_url import MEMORY, check_index_url
from kvcache.prefix_index import InMemoryPrefixIndex, PrefixIndex


def open_prefix_index(url: str) -> PrefixIndex:
    """Open `memory`, or the Redis or Valkey server of a URL. It connects at first use, so that a server may be down at startup."""
    if url == MEMORY:
        return InMemoryPrefixIndex()
    check_index_url(url)
    # Imported only here, because it takes a third of a scheduler's import time, and a single scheduler does not need it.
    from kvcache.redis_index import RedisPrefixIndex

    return RedisPrefixIndex(url)
