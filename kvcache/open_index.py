"""Opens the prefix index that a setting names."""

from kvcache.index_url import MEMORY, check_index_url
from kvcache.prefix_index import InMemoryPrefixIndex, PrefixIndex


def open_prefix_index(url: str) -> PrefixIndex:
    """`memory`, or the URL of a Redis or Valkey. Does not connect yet, so that a server that is down stops nobody."""
    if url == MEMORY:
        return InMemoryPrefixIndex()
    check_index_url(url)
    # Only here: a scheduler alone on its machine would wait for this import, a third of all that it imports.
    from kvcache.redis_index import RedisPrefixIndex

    return RedisPrefixIndex(url)
