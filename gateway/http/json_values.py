"""What a JSON text costs to parse and to validate, told from its bytes: parsing keeps the interpreter's lock until it is done.

The cost is in numbers: 800,000 of them take about 50 ms. A string, a key too, costs as much as 8 numbers, an array or an
object as much as 40.
"""

import asyncio

CONTAINER = 40
STRING = 8


async def cost_exceeds(raw: bytes, limit: int) -> bool:
    """Whether parsing `raw` costs more than `limit`. What stands within strings costs nothing, however it looks."""
    if CONTAINER * len(raw) <= limit or _highest_cost(raw) <= limit:
        return False
    return await asyncio.to_thread(_cost, raw, limit) > limit


def _highest_cost(raw: bytes) -> int:
    """The cost if nothing stood within strings. A string has two quotation marks."""
    return _cost_of_marks(raw, 0, len(raw)) + raw.count(b'"') * STRING // 2


def _cost(raw: bytes, limit: int) -> int:
    """The cost, or any number above the limit where it is more."""
    raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    cost = position = 0
    while cost <= limit:
        opening = raw.find(b'"', position)
        cost += _cost_of_marks(raw, position, len(raw) if opening < 0 else opening)
        closing = -1 if opening < 0 else raw.find(b'"', opening + 1)
        if closing < 0:
            break
        cost += STRING
        position = closing + 1
    return cost


def _cost_of_marks(raw: bytes, start: int, end: int) -> int:
    num_containers = raw.count(b"[", start, end) + raw.count(b"{", start, end)
    return raw.count(b",", start, end) + num_containers * CONTAINER
