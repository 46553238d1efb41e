"""The state of the Responses API: the store, and the responses that run in the background."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from gateway.http.http_context import http_context
from gateway.responses.background import BackgroundRuns
from gateway.responses.store import ResponseStore, owner_of
from gateway.responses.stored_responses import StoredResponses


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseService:
    """The objects that the routes of responses share. An app has one, as `app.state.responses`."""

    store: ResponseStore
    runs: BackgroundRuns

    def stored_for(self, request: Request) -> StoredResponses:
        """Return the stored responses of the request's caller."""
        return StoredResponses(self.store, owner_of(http_context(request).caller))

    async def close(self) -> None:
        await self.runs.close()
        await self.store.close()


async def service_of(request: Request) -> ResponseService:  # async: FastAPI would run a plain function in a thread
    """Return the service of the request's app."""
    return cast(ResponseService, request.app.state.responses)


Service = Annotated[ResponseService, Depends(service_of)]
"""The parameter of a handler that uses the service."""
