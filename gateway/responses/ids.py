"""The ids of responses and of their items. An item's id names its response, so that a reference to an item needs no index."""

import re
import uuid

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})(?:i|o)\d+")


def new_response_id() -> str:
    return f"resp_{uuid.uuid4().hex}"


def input_item_id(response_id: str, kind: str, index: int) -> str:
    return f"{_PREFIXES[kind]}_{_number(response_id)}i{index}"


def output_item_id(response_id: str, kind: str, index: int) -> str:
    return f"{_PREFIXES[kind]}_{_number(response_id)}o{index}"


def response_of_item(item_id: str) -> str | None:
    """Return the id of the response that the item belongs to, or None for an id that no response of this server has."""
    found = _ITEM_ID.fullmatch(item_id)
    return f"resp_{found[1]}" if found else None


def _number(response_id: str) -> str:
    return response_id.removeprefix("resp_")
