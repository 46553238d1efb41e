"""Tests of recently sent prefixes: they are kept up to a limit, and found by leading blocks."""

from gateway.upstream.recent_prefixes import RecentPrefixes
from kvcache.block_hash import BlockHash


def test_what_is_remembered_is_bounded_and_tails_go_first() -> None:
    blocks = [BlockHash(bytes([number])) for number in range(6)]
    sent = RecentPrefixes(max_blocks=4)
    sent.remember_prefix(blocks[:3], "a")
    sent.remember_prefix(blocks[3:], "b")
    assert sent.leading_runs(blocks[:3]) == {"a": 1}
    assert sent.leading_runs(blocks[3:]) == {"b": 3}
