"""Tests of look-ups that find foreign values in Redis: they are ignored, without an error."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.block_hash import BlockHash
from kvcache.prefix_index import Holder
from kvcache.redis_index import RedisPrefixIndex, _entry, _parse_record

MODEL = "4d" * 32
BLOCKS = [BlockHash(number.to_bytes(16, "big")) for number in range(2)]
GOOD = Holder(model=MODEL, scheduler_id="s", worker_id="w", epoch=7)
GOOD_RECORD = b"7 1 99 " + json.dumps(["s", "w"]).encode()

POISONED = [
    b"",
    b"7 1 99",
    b"7 1 99 ",
    b"x 1 99 " + json.dumps(["s", "w"]).encode(),
    b"-1 1 99 " + json.dumps(["s", "w"]).encode(),
    b"18446744073709551616 1 99 " + json.dumps(["s", "w"]).encode(),
    b"9" * 100_000 + b" 1 99 " + json.dumps(["s", "w"]).encode(),
    '٣ 1 99 ["s", "w"]'.encode(),
    b"1e3 1 99 []",
    b"7 1 99 []",
    b"7 1 99 {}",
    b'7 1 99 "sw"'[:-2] + b'w"',
    b"7 1 99 null",
    b"7 1 99 NaN",
    b"7 1 99 " + b"9" * 100_000,
    b"7 1 99 " + b"[" * 100_000,
    b"7 1 99 " + b"[" * 100_000 + b"]" * 100_000,
    b"7 1 99 " + b'{"a":' * 100_000,
    b'7 1 99 ["s", ' + b"[" * 50_000 + b"]" * 50_000 + b"]",
    b'7 1 99 ["\\ud800", "\\udfff"]',
    b'7 1 99 ["s", {"a": [1, 2]}]',
    b"7 1 99 \xff\xfe",
    b"\x00" * 1000,
    bytes(range(256)),
]


def index_that_finds(
    records: Mapping[bytes, bytes], values: list[bytes | None], monkeypatch: pytest.MonkeyPatch
) -> RedisPrefixIndex:
    index = RedisPrefixIndex("redis://127.0.0.1:1")

    async def execute(key: bytes, *commands: Any, within_s: float) -> list[Any]:
        return [records, values]

    monkeypatch.setattr(index._client, "execute", execute)
    return index


@pytest.mark.parametrize("poison", POISONED, ids=lambda poison: repr(poison[:30]))
async def test_a_poisoned_record_hides_no_other(poison: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = _entry(GOOD)
    values: list[bytes | None] = [poison + entry if len(poison) % 16 == 0 else entry + poison, entry]
    index = index_that_finds({b"bad": poison, b"good": GOOD_RECORD}, values, monkeypatch)
    found = await index.lookup(MODEL, BLOCKS)
    assert found[GOOD] == 2
    assert all(0 <= holder.epoch < 2**64 for holder in found)


@given(st.one_of(st.binary(max_size=200), st.builds(lambda tail: b"7 1 99 " + tail, st.binary(max_size=50))))
def test_any_record_is_a_holder_that_can_be_named_or_none(record: bytes) -> None:
    holder = _parse_record(MODEL, record)
    assert holder is None or len(_entry(holder)) == 16


NESTED = st.recursive(
    st.none() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(NESTED, st.integers())
def test_any_names_and_any_epoch_too(names: Any, epoch: int) -> None:
    holder = _parse_record(MODEL, f"{epoch} 1 99 {json.dumps(names)}".encode())
    assert holder is None or len(_entry(holder)) == 16
