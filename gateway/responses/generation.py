"""The generation of a response: its events, and its way into the store."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from gateway.errors import ErrorKind, GatewayError
from gateway.responses.requests import BegunResponse

logger = logging.getLogger(__name__)

JSONObject = dict[str, Any]
_LAST = frozenset({"response.completed", "response.incomplete"})


async def generate_response(begun: BegunResponse) -> AsyncGenerator[JSONObject, None]:
    """Yield the events of a response. It is stored before its last event, so that the client can continue it at once."""
    async with aclosing(begun.reply.stream_events(begun.events)) as events:
        async for event in events:
            if event["type"] in _LAST:
                await store_end(begun)
            yield event


async def generate_or_fail(begun: BegunResponse) -> AsyncGenerator[JSONObject, None]:
    """Yield the events of a response. An error after the first event is the last event of a failed response."""
    try:
        async with aclosing(generate_response(begun)) as events:
            async for event in events:
                yield event
    except Exception as error:
        if not begun.reply.has_begun:
            raise
        if not isinstance(error, GatewayError):
            logger.exception("response failed")
            error = GatewayError(ErrorKind.INTERNAL, "Internal server error.")
        last = begun.reply.fail(error)
        await store_end(begun)
        yield last


async def store_end(begun: BegunResponse) -> None:
    """Store a response that has ended. The client gets it even if the store fails."""
    try:
        await begun.store()
    except GatewayError as error:
        logger.warning("response not stored", extra={"response_id": begun.reply.id, "reason": error.message})
