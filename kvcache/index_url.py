"""From a setting to a prefix index."""

from kvcache.prefix_index import InMemoryPrefixIndex, PrefixIndex

MEMORY = "memory"
URL_SCHEMES = ("redis://", "rediss://", "unix://")


def is_index_url(url: str) -> bool:
    return url == MEMORY or url.startswith(URL_SCHEMES)


def open_prefix_index(url: str) -> PrefixIndex:
    """`memory`, or the URL of a Redis or Valkey server. Does not connect yet, so that a server that is down stops nobody."""
    if not is_index_url(url):
        raise ValueError(f"a prefix index is {MEMORY!r}, or a URL that begins with one of {', '.join(URL_SCHEMES)}")
    if url == MEMORY:
        return InMemoryPrefixIndex()
    # Only here: a scheduler alone on its machine would wait for this import, a third of all that it imports.
    from kvcache.redis_index import RedisPrefixIndex

    return RedisPrefixIndex(url)
