"""The access check of every call, and the interceptor that runs it before anything of the call is read.

Gateways and workers prove their role by a cluster token or a certificate. Other callers show an API key, if keys are configured,
as in HTTP. The health service is open to all, since probes have no credentials.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health

from pagoda.api_keys.key_file import Scope
from pagoda.api_keys.keyring import Caller, KeyNotValidError, Keyring, ScopeMissingError
from pagoda.rpc.certificate_roles import CertificateRoles
from pagoda.rpc.cluster_tokens import ALL_ROLES, NO_ROLE, ClusterTokens, Role
from protos.v1 import inference_pb2, worker_pb2

logger = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, str | bytes]]
Handler = TypeVar("Handler")


@dataclass(frozen=True, slots=True)
class Access:
    """The callers that may call a method."""

    roles: frozenset[Role]
    scope: Scope | None = None
    """Scope of an API key that allows the call without a role. None if no API key does."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The caller of the call that is being served."""

    key: Caller | None = None
    """Owner of the API key. None for members of the cluster, whose requests may name any tenant."""


class RefusedError(Exception):
    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


visitor: ContextVar[Visitor] = ContextVar("visitor")
"""The caller of the current call. It is set before the handler runs, so that a handler without the check fails."""

_INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_WORKER = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
_PUBLIC = frozenset({Role.GATEWAY, Role.CLIENT})
ACCESS: Mapping[str, Access] = {
    f"/{_INFERENCE}/Generate": Access(_PUBLIC, Scope.INFERENCE),
    f"/{_INFERENCE}/ListModels": Access(_PUBLIC, Scope.INFERENCE),
    f"/{_INFERENCE}/KeepLoaded": Access(_PUBLIC, Scope.ADMIN),
    # The load names tenants, as /queue does. Workers use it to count the workers of other schedulers.
    f"/{_INFERENCE}/GetLoad": Access(ALL_ROLES, Scope.ADMIN),
    # The requests of a session may name any tenant.
    f"/{_INFERENCE}/Session": Access(frozenset({Role.GATEWAY})),
    f"/{_WORKER}/Attach": Access(frozenset({Role.WORKER})),
}
OTHERS = Access(ALL_ROLES, Scope.INFERENCE)
"""Access to reflection, and to methods that do not exist."""
_OPEN = f"/{health.SERVICE_NAME}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    keyring: Keyring
    tokens: ClusterTokens | None
    certificates: CertificateRoles | None
    """Roles of certificates, if the server demands certificates."""
    is_private: bool
    """True if the server listens on a unix socket, which only this user's processes reach. It then needs no token unless API keys
    are configured."""

    def admit(self, method: str, metadata: Metadata, names: Iterable[str] = ()) -> Visitor:
        """Return the caller of the method, by the call's metadata and its certificate's names. Raises RefusedError."""
        access = ACCESS.get(method, OTHERS)
        bearer, api_key = _offered(metadata)
        certified = self.certificates.of(names) if self.certificates is not None else ALL_ROLES
        proven = self._proven(bearer) & certified
        if proven & self._sufficient(access):
            return Visitor()
        if access.scope is not None and not self.keyring.is_open and Role.CLIENT in certified:
            return Visitor(self._holder(api_key or bearer, access.scope))
        raise self._refusal(method, access, proven, certified)

    def _proven(self, bearer: bytes | None) -> frozenset[Role]:
        """Return the roles that the caller proves by a token, or all roles if no token is needed."""
        if self.is_private and self.keyring.is_open:
            return ALL_ROLES
        if self.tokens is not None:
            return self.tokens.roles_of(bearer) if bearer else NO_ROLE
        return ALL_ROLES if self.certificates is not None else NO_ROLE

    def _sufficient(self, access: Access) -> frozenset[Role]:
        """Return the roles that suffice without an API key. A client needs a key if keys are configured."""
        return access.roles if self.keyring.is_open else access.roles - {Role.CLIENT}

    def _holder(self, key: bytes | None, scope: Scope) -> Caller:
        try:
            return self.keyring.authorize(key, scope)
        except KeyNotValidError as error:
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        except ScopeMissingError as error:
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, str(error)) from None

    def _refusal(
        self, method: str, access: Access, proven: frozenset[Role], certified: frozenset[Role]
    ) -> RefusedError:
        name, needed = method.rpartition("/")[2], " or ".join(sorted(access.roles))
        if not certified & access.roles:
            return RefusedError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{name} requires a certificate with the role {needed} (this one has: {_listed(certified)}); issue a certificate "
                "that is named so, or map its name with the scheduler's --tls-roles",
            )
        if proven:
            return RefusedError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{name} requires the role {needed} (this token has: {_listed(proven)})",
            )
        return RefusedError(
            grpc.StatusCode.UNAUTHENTICATED,
            f"{name} requires a cluster token with the role {needed}, but the token is missing or unknown; set "
            "--cluster-token-file (or PAGODA_CLUSTER_TOKEN) to one that this scheduler accepts, or send it as "
            "authorization: Bearer TOKEN",
        )


class DoorInterceptor(grpc.aio.ServerInterceptor):
    """The interceptor that checks every call of every service."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        method, metadata = details.method, details.invocation_metadata
        handler = await continuation(details)
        if handler is None or method.startswith(_OPEN):
            return handler
        if self._door.certificates is not None:
            # The certificate is known only from the context of the call.
            return _checked(method, handler, lambda context: self._door.admit(method, metadata, _names(context)))
        try:
            visitor.set(self._door.admit(method, metadata))
        except RefusedError as refusal:
            return _refusing(method, refusal)
        return handler


def _refusing(method: str, refusal: RefusedError) -> Any:
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await _refuse(method, refusal, context)

    # A stream handler suits every method and reads nothing of the request.
    return grpc.stream_stream_rpc_method_handler(refuse)


async def _refuse(method: str, refusal: RefusedError, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    told = {"method": method, "peer": context.peer(), "code": refusal.status.name, "reason": str(refusal)}
    logger.warning("call refused", extra=told)
    await context.abort(refusal.status, str(refusal))


def _checked(method: str, handler: Any, admit: Callable[[grpc.aio.ServicerContext[Any, Any]], Visitor]) -> Any:
    """Return the handler behind a check that needs the call's context."""

    async def enter(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            visitor.set(admit(context))
        except RefusedError as refusal:
            await _refuse(method, refusal, context)

    async def one(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await enter(context)
        return await (handler.unary_unary or handler.stream_unary)(request, context)

    async def many(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        await enter(context)
        async for response in (handler.unary_stream or handler.stream_stream)(request, context):
            yield response

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour: Any = many if handler.response_streaming else one
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _offered(metadata: Metadata) -> tuple[bytes | None, bytes | None]:
    """Return the bearer token and the API key of a call."""
    sent = {key: value if isinstance(value, bytes) else value.encode() for key, value in metadata}
    scheme, _, token = sent.get("authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None, sent.get("x-api-key")


def _names(context: grpc.aio.ServicerContext[Any, Any]) -> list[str]:
    """Return all names in the caller's certificate."""
    told = context.auth_context()
    found = [*told.get("x509_subject_alternative_name", ()), *told.get("x509_common_name", ())]
    return [name.decode(errors="replace") for name in found]


def _listed(roles: frozenset[Role]) -> str:
    return ", ".join(sorted(roles)) or "none"
