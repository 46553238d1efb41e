"""The hashes of blocks of tokens, the same in every process and on every machine.

A block is `page_size` consecutive tokens. Its hash covers its parent's hash, so equal hashes mean equal prefixes. The parent of the
first block is a root, which covers everything else that keys and values depend on. Python's `hash()` differs between processes.
"""

import hashlib
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import NewType

BlockHash = NewType("BlockHash", bytes)

HASH_BYTES = 16


def root_hash(*, model_digest: str, page_size: int, adapter: str = "", cache_salt: str = "") -> BlockHash:
    """Return the parent of first blocks. Sequences with different roots never share a page."""
    parts = (model_digest, str(page_size), adapter, cache_salt)
    # The lengths separate the parts: ("ab", "c") and ("a", "bc") must differ.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return BlockHash(hashlib.blake2b(text.encode(), digest_size=HASH_BYTES, person=b"pagoda-root").digest())


def hash_block(parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
    """Return the hash of one full block after its parent. Token ids must be below 2^32."""
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return BlockHash(hashlib.blake2b(parent + packed.tobytes(), digest_size=HASH_BYTES).digest())


def hash_blocks(parent: BlockHash, token_ids: Sequence[int], page_size: int) -> Iterator[BlockHash]:
    """Yield the hashes of all full blocks of `token_ids` in order, the first one after `parent`."""
    for start in range(0, len(token_ids) - page_size + 1, page_size):
        parent = hash_block(parent, token_ids[start : start + page_size])
        yield parent
