"""The store of responses in Redis or Valkey, which all gateways share.

All its keys have one hash tag, so that each script sees a consistent store, also in a cluster:

    pagoda:{responses}:contents    hash, "<owner>/<id>" → the encoded response
    pagoda:{responses}:used        sorted set of the same names by their last use, in milliseconds of the server
    pagoda:{responses}:bytes       string, the size of all entries

Every operation is one script, which first removes what is too old. The keys expire when the store is not used at all. A server
with the policy allkeys-lru may evict one of them; the store is then emptied, because the others no longer fit to it.
"""

import math
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from gateway.responses.store import ENTRY_OVERHEAD_BYTES, StoreLimits, StoreUnavailableError
from kvcache.redis_client import CONNECTION_ERRORS, RedisClient

OPERATION_LIMIT_S = 5.0
KEYS = tuple(f"pagoda:{{responses}}:{name}" for name in ("contents", "used", "bytes"))

Result = TypeVar("Result")

# ARGV: time to live in ms, maximum number of entries, maximum number of bytes, overhead of an entry, further arguments.
_COMMON = """
local contents, used, bytes = KEYS[1], KEYS[2], KEYS[3]
local ttl, max_entries, max_bytes, overhead = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', contents, used, bytes) < 3 then redis.call('DEL', contents, used, bytes) end
local function remove(name)
  local size = redis.call('HSTRLEN', contents, name)
  if redis.call('HDEL', contents, name) == 0 then return 0 end
  redis.call('ZREM', used, name)
  redis.call('DECRBY', bytes, size + overhead)
  return 1
end
local function trim()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', used, '-inf', now - ttl)) do remove(name) end
  while redis.call('ZCARD', used) > max_entries or tonumber(redis.call('GET', bytes) or 0) > max_bytes do
    local names = redis.call('ZRANGE', used, 0, 0)
    if #names == 0 then
      redis.call('DEL', bytes)
      return
    end
    remove(names[1])
  end
end
local function touch(name)
  redis.call('ZADD', used, now, name)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl) end
end
"""
_PUT = f"""{_COMMON}
remove(ARGV[5])
if #ARGV[6] + overhead > max_bytes then return 0 end
redis.call('HSET', contents, ARGV[5], ARGV[6])
redis.call('INCRBY', bytes, #ARGV[6] + overhead)
touch(ARGV[5])
trim()
return 1
"""
_GET = f"""{_COMMON}
trim()
local found = {{}}
for index = 5, #ARGV do
  found[index - 4] = redis.call('HGET', contents, ARGV[index])
  if found[index - 4] then touch(ARGV[index]) end
end
return found
"""
_DELETE = f"""{_COMMON}
trim()
return remove(ARGV[5])
"""


class RedisResponseStore:
    """A store on the Redis or Valkey server of a URL. It connects at first use, and again after a failure."""

    def __init__(self, url: str, limits: StoreLimits, *, operation_limit_s: float = OPERATION_LIMIT_S) -> None:
        self.description = (
            f"Responses are kept in Redis for {limits.ttl_s:g} s after their last use, "
            f"and at most {limits.max_entries} of them."
        )
        self._limits = limits
        self._limit_s = operation_limit_s
        self._client = RedisClient(url, give_up_s=operation_limit_s)

    async def put(self, owner: str, response_id: str, content: bytes) -> None:
        await self._run(_PUT, _name(owner, response_id), content)

    async def get(self, owner: str, response_ids: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = await self._run(_GET, *(_name(owner, each) for each in response_ids))
        return found

    async def delete(self, owner: str, response_id: str) -> bool:
        return bool(await self._run(_DELETE, _name(owner, response_id)))

    async def close(self) -> None:
        await self._client.close()

    async def _run(self, script: str, *arguments: str | bytes) -> Any:
        limits = self._limits
        bounds = (math.ceil(limits.ttl_s * 1000), limits.max_entries, limits.max_bytes, ENTRY_OVERHEAD_BYTES)
        command = ("EVAL", script, len(KEYS), *KEYS, *bounds, *arguments)
        return (await _answered(self._client.execute(KEYS[0].encode(), command, within_s=self._limit_s)))[0]


async def _answered(operation: Awaitable[Result]) -> Result:
    try:
        return await operation
    except CONNECTION_ERRORS as error:
        raise StoreUnavailableError(type(error).__name__) from error


def _name(owner: str, response_id: str) -> str:
    return f"{owner}/{response_id}"
