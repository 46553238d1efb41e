"""Names for blocks of tokens, the same in every process and on every machine.

A block is `page_size` consecutive tokens. Its hash covers its parent's, so equal hashes mean equal prefixes, and a root that
covers everything else the keys and values depend on. Never Python's `hash()`, which differs between processes.
"""

import hashlib
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import NewType

BlockHash = NewType("BlockHash", bytes)

HASH_BYTES = 16


def root_hash(*, model_digest: str, page_size: int, adapter: str = "", cache_salt: str = "") -> BlockHash:
    """The parent of first blocks: sequences with different roots never share a page."""
    parts = (model_digest, str(page_size), adapter, cache_salt)
    # Lengths keep the parts apart: ("ab", "c") and ("a", "bc") must differ.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return BlockHash(hashlib.blake2b(text.encode(), digest_size=HASH_BYTES, person=b"pagoda-root").digest())


def hash_block(parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
    """The hash of one full block behind its parent; token ids are below 2^32."""
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return BlockHash(hashlib.blake2b(parent + packed.tobytes(), digest_size=HASH_BYTES).digest())


def hash_blocks(parent: BlockHash, token_ids: Sequence[int], page_size: int) -> Iterator[BlockHash]:
    """The hashes of all full blocks of `token_ids` in order, the first one behind `parent`."""
    for start in range(0, len(token_ids) - page_size + 1, page_size):
        parent = hash_block(parent, token_ids[start : start + page_size])
        yield parent
