import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from kvcache.block_hash import HASH_BYTES, hash_block, hash_blocks, root_hash

ROOT = root_hash(model_digest="d", page_size=4)
token_ids = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def test_a_hash_is_the_same_in_every_process() -> None:
    program = (
        "from kvcache.block_hash import *; "
        "print(hash_block(root_hash(model_digest='d', page_size=4), [1, 2, 3, 4]).hex())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hash_block(ROOT, [1, 2, 3, 4]).hex()


def test_a_hash_has_sixteen_bytes() -> None:
    assert len(ROOT) == len(hash_block(ROOT, [7])) == HASH_BYTES == 16


@given(token_ids, token_ids)
def test_two_prompts_share_exactly_the_hashes_of_their_common_full_blocks(a: list[int], b: list[int]) -> None:
    hashes_a, hashes_b = list(hash_blocks(ROOT, a, 4)), list(hash_blocks(ROOT, b, 4))
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    shared = [x == y for x, y in zip(hashes_a, hashes_b, strict=False)]
    assert shared == [index < common // 4 for index in range(len(shared))]


@given(token_ids)
def test_only_full_blocks_are_named(ids: list[int]) -> None:
    assert len(list(hash_blocks(ROOT, ids, 4))) == len(ids) // 4


def test_roots_keep_models_adapters_salts_and_page_sizes_apart() -> None:
    roots = {
        ROOT,
        root_hash(model_digest="e", page_size=4),
        root_hash(model_digest="d", page_size=16),
        root_hash(model_digest="d", page_size=4, adapter="a"),
        root_hash(model_digest="d", page_size=4, cache_salt="a"),
    }
    assert len(roots) == 5
