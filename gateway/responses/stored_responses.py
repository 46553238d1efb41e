"""Stored responses: their encoding, and the conversation that they continue.

A stored response has its own input and output, and the ids of the responses before it. So a conversation of n turns takes space
in proportion to n, and one look-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import ErrorKind, GatewayError, InvalidRequestError, unavailable
from gateway.http.fields import MAX_MESSAGES
from gateway.responses.ids import response_of_item
from gateway.responses.input_items import Item
from gateway.responses.store import ResponseStore, StoreUnavailableError

JSONObject = dict[str, Any]

MAX_CHAIN = 1000
"""Maximum number of responses in a conversation that continues by `previous_response_id`."""
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response with the input that it answers."""

    response: JSONObject
    input: list[Item]
    chain: list[str]
    """Ids of the responses before it in its conversation, the first one first."""

    @property
    def id(self) -> str:
        response_id: str = self.response["id"]
        return response_id

    @property
    def is_running(self) -> bool:
        return self.response["status"] in ("queued", "in_progress")

    @property
    def items(self) -> list[Item]:
        """The input and the output."""
        return [*self.input, *self.response["output"]]


class StoredResponses:
    """The stored responses of one owner."""

    def __init__(self, store: ResponseStore, owner: str) -> None:
        self._store = store
        self.owner = owner

    async def put(self, stored: StoredResponse) -> None:
        """Store or replace a response."""
        content = orjson.dumps({"response": stored.response, "input": stored.input, "chain": stored.chain})
        try:
            await self._store.put(self.owner, stored.id, content)
        except StoreUnavailableError as error:
            raise _no_store(error) from None

    async def get(self, response_id: str) -> StoredResponse:
        """Return a response, or raise a 404 that says where responses are kept."""
        [found] = await self._get([response_id])
        if found is None:
            raise self.not_found(response_id)
        return found

    async def delete(self, response_id: str) -> bool:
        """Remove a response. Return whether it was there."""
        try:
            return await self._store.delete(self.owner, response_id)
        except StoreUnavailableError as error:
            raise _no_store(error) from None

    async def conversation(self, previous_id: str) -> list[StoredResponse]:
        """Return the responses of a conversation up to this one, the first one first."""
        [last] = await self._get([previous_id])
        field = "previous_response_id"
        if last is None:
            raise self.not_found(previous_id, param=field, code="previous_response_not_found")
        if last.is_running:
            raise InvalidRequestError(
                f"{field}: the response {previous_id!r} is still {last.response['status']}; wait for its end",
                param=field,
            )
        if len(last.chain) >= MAX_CHAIN:
            raise InvalidRequestError(
                f"{field}: a conversation may have at most {MAX_CHAIN} responses; send its items as `input` instead",
                param=field,
            )
        earlier = []
        for response_id, found in zip(last.chain, await self._get(last.chain), strict=True):
            if found is None:
                raise self.not_found(response_id, param=field, code="previous_response_not_found")
            earlier.append(found)
        conversation = [*earlier, last]
        if sum(len(each.input) + len(each.response["output"]) for each in conversation) > MAX_MESSAGES:
            raise InvalidRequestError(f"{field}: a conversation may have at most {MAX_MESSAGES} items", param=field)
        return conversation

    async def find_items(self, item_ids: Sequence[str]) -> dict[str, Item]:
        """Return the stored items with these ids. Raises a 404 for the first that is not there."""
        response_ids = list(dict.fromkeys(filter(None, map(response_of_item, item_ids))))
        found = [each for each in await self._get(response_ids) if each is not None]
        items = {item["id"]: item for each in found for item in each.items}
        for item_id in item_ids:
            if item_id not in items:
                raise GatewayError(
                    ErrorKind.NOT_FOUND,
                    f"There is no item {item_id[:_MAX_SHOWN]!r} for this API key. {self._store.description}",
                    param="input",
                    code="item_not_found",
                )
        return items

    def not_found(
        self, response_id: str, *, param: str | None = None, code: str = "response_not_found"
    ) -> GatewayError:
        """Return the error for an unknown response."""
        return GatewayError(
            ErrorKind.NOT_FOUND,
            f"There is no response {response_id[:_MAX_SHOWN]!r} for this API key. {self._store.description}",
            param=param,
            code=code,
        )

    async def _get(self, response_ids: Sequence[str]) -> list[StoredResponse | None]:
        if not response_ids:
            return []
        try:
            contents = await self._store.get(self.owner, response_ids)
        except StoreUnavailableError as error:
            raise _no_store(error) from None
        return [None if content is None else StoredResponse(**orjson.loads(content)) for content in contents]


def _no_store(error: StoreUnavailableError) -> GatewayError:
    return unavailable(f"The store of responses does not answer ({error}).")
