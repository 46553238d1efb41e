"""The prefix index in Redis or Valkey, which schedulers and gateways share.

All keys have the hash tag of the model, so that a look-up stays on one slot of a cluster:

    pagoda:{<model>}            hash, the model's holders: slot (8 bytes) → "fence live until names"
    pagoda:{<model>}:<block>    string, 16 bytes for each holder (slot and epoch), the latest to publish first; 208 bytes of server
                                memory with eight holders

No epoch below the fence is accepted, and entries of exactly that epoch count while `live` is 1. `until` is the end of the lease (or
of the fence, if `live` is 0) in the server's milliseconds. `names` is JSON for readers.

A look-up is one round trip for prompts of any length: the holders, and one MGET of all blocks. Epochs are checked on read.
A change is a script that runs inside the server, so that it is atomic and fenced. If the server is gone, slow, flushed, full or
paused, callers see fewer hits and no exception. The connection is in redis_client.py.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, ResponseError

from kvcache.block_hash import BlockHash
from kvcache.breaker import BreakerState, CircuitBreaker
from kvcache.prefix_index import Holder, IndexLimits, PublishResult, leading_runs
from kvcache.redis_client import CONNECTION_ERRORS, RedisClient

logger = logging.getLogger(__name__)

LOOKUP_LIMIT_S = 0.02
# No request waits for a write, but a server that takes longer than this counts as failed.
WRITE_LIMIT_S = 1.0
# Blocks in one script call, which blocks the server for about half a millisecond.
BLOCKS_PER_CALL = 256

# Epochs have 8 bytes in an entry.
MAX_EPOCH = 2**64 - 1

_UNREACHABLE = (RedisConnectionError, RedisClusterException, ConnectionError)
_RESULTS = {1: PublishResult.KNOWN, 0: PublishResult.NEW, -1: PublishResult.FENCED}


class RedisPrefixIndex:
    """A prefix index that connects at first use, and again after a failure. It belongs to one event loop."""

    def __init__(
        self,
        url: str,
        limits: IndexLimits | None = None,
        *,
        lookup_limit_s: float = LOOKUP_LIMIT_S,
        write_limit_s: float = WRITE_LIMIT_S,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """Create an index at `url`, which has one of URL_FORMS. The breaker decides when to try again after failures."""
        self._client = RedisClient(url, give_up_s=max(lookup_limit_s, write_limit_s))
        self._limits = limits or IndexLimits()
        self._lookup_limit_s = lookup_limit_s
        self._write_limit_s = write_limit_s
        self._breaker = breaker or CircuitBreaker()
        self._problem = ""
        """Last logged problem, so that an outage is logged once."""

    @property
    def breaker_state(self) -> BreakerState:
        return self._breaker.state

    async def publish(self, holder: Holder, blocks: Sequence[BlockHash]) -> PublishResult:
        limits = (self._limits.lease_s, self._limits.block_ttl_s)
        lease_ms, ttl_ms = (round(seconds * 1000) for seconds in limits)
        arguments = (_entry(holder), _names(holder), lease_ms, ttl_ms, self._limits.max_holders_per_block)
        answers = await self._run_script(_PUBLISH, holder, blocks, arguments)
        # The first of several calls makes a new holder known, so the lowest result is that of the whole.
        return _RESULTS.get(min(answers), PublishResult.UNAVAILABLE) if answers else PublishResult.UNAVAILABLE

    async def withdraw(self, holder: Holder, blocks: Sequence[BlockHash]) -> bool:
        return bool(await self._run_script(_WITHDRAW, holder, blocks, []))

    async def drop(self, holder: Holder) -> None:
        ttl_ms = round(self._limits.block_ttl_s * 1000)
        await self._run_script(_DROP, holder, [], [_names(holder), ttl_ms])

    async def lookup(self, model: str, blocks: Sequence[BlockHash]) -> Mapping[Holder, int]:
        if not blocks:
            return {}
        asked = blocks[: self._limits.max_lookup_blocks]
        key = _holders_key(model)
        answers = await self._within(self._lookup_limit_s, key, ("HGETALL", key), ("MGET", *_block_keys(model, asked)))
        if answers is None:
            return {}
        records, values = answers
        living = _living(model, records)
        return leading_runs(map(cache(lambda value: _holders(value, living)), values))

    async def close(self) -> None:
        await self._client.close()

    async def _run_script(
        self, script: str, holder: Holder, blocks: Sequence[BlockHash], arguments: Sequence[bytes | int]
    ) -> list[int]:
        """Call the script at least once, with BLOCKS_PER_CALL blocks each time. Return all results, or none after a failure."""

        key, calls = _holders_key(holder.model), []
        for start in range(0, max(len(blocks), 1), BLOCKS_PER_CALL):
            batch = blocks[start : start + BLOCKS_PER_CALL]
            keys = [key, *_block_keys(holder.model, batch)]
            # The source is sent each time, because a restarted server has no scripts; a kilobyte costs next to nothing.
            calls.append(("EVAL", script, len(keys), *keys, _slot(holder), holder.epoch, *arguments))
        answers = await self._within(self._write_limit_s, key, *calls)
        return list(map(int, answers or []))

    async def _within(self, limit_s: float, key: bytes, *commands: tuple[bytes | str | int, ...]) -> list[Any] | None:
        """Run commands and return their answers. Return None if the breaker is open, or on a timeout or failure."""
        if not self._breaker.admits():
            return None
        try:
            answers = await self._client.execute(key, *commands, within_s=limit_s)
        except ResponseError as error:
            # The server works but refuses: it is full or read-only, or the key has another type. Look-ups may still succeed.
            self._breaker.succeeded()
            self._report("refused", str(error))
            return None
        except CONNECTION_ERRORS as error:
            self._breaker.failed()
            if self._breaker.state is BreakerState.OPEN:
                self._report(*_what_is_wrong(error))
            return None
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        self._report("")
        return answers

    def _report(self, problem: str, details: str = "") -> None:
        if problem and problem != self._problem:
            told = {"reason": problem, "details": details}
            logger.warning("prefix index unavailable; routing by load only", extra=told)
        elif self._problem and not problem:
            logger.info("prefix index available again")
        self._problem = problem


def _what_is_wrong(error: Exception) -> tuple[str, str]:
    """Return the reason of an outage, which stays the same from try to try, and its details, which may vary."""
    return ("unreachable", str(error)) if isinstance(error, _UNREACHABLE) else ("too slow", "")


def _holders_key(model: str) -> bytes:
    return f"pagoda:{{{model[:16]}}}".encode()


def _block_keys(model: str, blocks: Sequence[BlockHash]) -> list[bytes]:
    prefix = _holders_key(model) + b":"
    return [prefix + block for block in blocks]


def _slot(holder: Holder) -> bytes:
    return blake2b(_names(holder), digest_size=8).digest()


def _names(holder: Holder) -> bytes:
    return json.dumps([holder.scheduler_id, holder.worker_id]).encode()


def _entry(holder: Holder) -> bytes:
    return _slot(holder) + holder.epoch.to_bytes(8, "big")


def _living(model: str, records: Mapping[bytes, bytes]) -> dict[bytes, Holder]:
    """Return the live holders by their entry."""
    holders = filter(None, (_parse_record(model, record) for record in records.values()))
    return {_entry(holder): holder for holder in holders}


def _parse_record(model: str, record: bytes) -> Holder | None:
    """Return the holder of a record, or None if it is gone or the record is not ours."""
    try:
        fence, live, _, names = record.split(b" ", 3)
        scheduler_id, worker_id = json.loads(names)
        holder = Holder(model=model, scheduler_id=str(scheduler_id), worker_id=str(worker_id), epoch=int(fence))
    except (ValueError, TypeError, RecursionError):
        return None
    return holder if live == b"1" and 0 <= holder.epoch <= MAX_EPOCH else None


def _holders(value: bytes | None, living: Mapping[bytes, Holder]) -> list[Holder]:
    packed = value or b""
    entries = (packed[at : at + 16] for at in range(0, len(packed), 16))
    return [living[entry] for entry in entries if entry in living]


# KEYS[1] is the hash of the model's holders; the other keys are blocks. All have the model's hash tag, so they are on one slot.
_HOLDERS = """
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function parse(record)
  local fence, live, ends, names = string.match(record or '', '^(%d+) (%d) (%d+) (.*)$')
  return tonumber(fence), live == '1', tonumber(ends), names
end
local function store(slot, fence, live, ends, names)
  redis.call('HSET', KEYS[1], slot, string.format('%.0f %d %.0f %s', fence, live, ends, names))
end
local function without(slot, entries, room)
  local kept = {}
  for at = 1, #entries - 15, 16 do
    if #kept < room and string.sub(entries, at, at + 7) ~= slot then
      kept[#kept + 1] = string.sub(entries, at, at + 15)
    end
  end
  return table.concat(kept)
end
local slot, epoch = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
local fence, live, ends = parse(redis.call('HGET', KEYS[1], slot))
if fence and fence > epoch then return -1 end
"""

_PUBLISH = (
    _HOLDERS
    + """
local entry, names = ARGV[3], ARGV[4]
local lease, ttl, max_holders = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
store(slot, epoch, 1, now + lease, names)
redis.call('PEXPIRE', KEYS[1], lease)
if #KEYS == 1 then
  local records = redis.call('HGETALL', KEYS[1])
  for i = 1, #records, 2 do
    local other, other_live, other_ends, other_names = parse(records[i + 1])
    if not other or (other_ends <= now and not other_live) then
      redis.call('HDEL', KEYS[1], records[i])
    elseif other_ends <= now then
      store(records[i], other, 0, now + ttl, other_names)
    end
  end
end
for i = 2, #KEYS do
  local others = without(slot, redis.call('GET', KEYS[i]) or '', max_holders - 1)
  redis.call('SET', KEYS[i], entry .. others, 'PX', ttl)
end
if fence == epoch and live and ends > now then return 1 end
return 0
"""
)
"""Script of `publish`. ARGV: slot, epoch, entry, names, lease, time to live, maximum number of holders of a block. It returns 1
for a known holder, 0 for a new one, -1 for a fenced one.

A call without blocks also marks the expired leases, so that readers need not know the server's time."""

_WITHDRAW = (
    _HOLDERS
    + """
for i = 2, #KEYS do
  local entries = redis.call('GET', KEYS[i])
  local kept = without(slot, entries or '', 1e9)
  if entries and kept == '' then
    redis.call('DEL', KEYS[i])
  elseif entries then
    redis.call('SET', KEYS[i], kept, 'KEEPTTL')
  end
end
return 1
"""
)
"""Script of `withdraw`. ARGV: slot, epoch. It returns 1, or -1 for a fenced holder."""

_DROP = (
    _HOLDERS
    + """
store(slot, epoch + 1, 0, now + tonumber(ARGV[4]), ARGV[3])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
)
"""Script of `drop`. ARGV: slot, epoch, names, time to live of the fence. It returns 1, or -1 for a fenced holder."""
