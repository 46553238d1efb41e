"""Tests of the scheduler's access check: every kind of credential with every method."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import grpc
import pytest

from pagoda.api_keys.key_file import KeyEntry, Scope, WatchedKeys, digest_of
from pagoda.api_keys.keyring import Caller, Keyring
from pagoda.rpc.certificate_roles import CertificateRoles
from pagoda.rpc.cluster_tokens import ClusterTokens, Role, new_token
from protos.v1 import inference_pb2, worker_pb2
from scheduler.rpc.door import ACCESS, OTHERS, Door, RefusedError, Visitor

TOKENS = {role.value: new_token(role) for role in Role} | {"shared": new_token()}
WRONG = new_token(Role.WORKER)
OPERATORS, USERS = "operators-key", "users-key"
KEYS = {
    OPERATORS: KeyEntry(
        name="ops", sha256=digest_of(OPERATORS.encode()), scopes=(Scope.ADMIN,), created_at=datetime.now(UTC)
    ),
    USERS: KeyEntry(
        name="ci", sha256=digest_of(USERS.encode()), tenant="builds", isolated=True, created_at=datetime.now(UTC)
    ),
}
ATTACH, SESSION = "/protos.v1.WorkerService/Attach", "/protos.v1.InferenceService/Session"
GENERATE, LIST_MODELS, KEEP_LOADED, GET_LOAD = (
    f"/protos.v1.InferenceService/{name}" for name in ("Generate", "ListModels", "KeepLoaded", "GetLoad")
)
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
METHODS = (ATTACH, SESSION, GENERATE, LIST_MODELS, KEEP_LOADED, GET_LOAD, REFLECTION)
PUBLIC = {GENERATE, LIST_MODELS, KEEP_LOADED, GET_LOAD, REFLECTION}
ROLE_METHODS = {
    "gateway": {SESSION, *PUBLIC},
    "worker": {ATTACH, GET_LOAD, REFLECTION},
    "client": PUBLIC,
    "shared": set(METHODS),
}
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


def door(
    path: Path,
    *,
    keys: bool = False,
    tokens: bool = True,
    roles: str | None = None,
    is_private: bool = False,
) -> Door:
    return Door(
        keyring=Keyring(tuple(KEYS.values()) if keys else (), WatchedKeys(path / "keys.json"), open_without_keys=True),
        tokens=ClusterTokens(text=" ".join(TOKENS.values())) if tokens else None,
        certificates=None if roles is None else CertificateRoles.parse(roles),
        is_private=is_private,
    )


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("user-agent", "x"), ("authorization", f"Bearer {token}"))


def answer(
    asked: Door, method: str, metadata: Iterable[tuple[str, str]] = (), names: Iterable[str] = ()
) -> Visitor | grpc.StatusCode:
    try:
        return asked.admit(method, metadata, names)
    except RefusedError as refusal:
        assert str(refusal) and not any(token in str(refusal) for token in (*TOKENS.values(), *KEYS))
        return refusal.status


def test_every_method_of_ours_has_its_access() -> None:
    services = [inference_pb2.DESCRIPTOR.services_by_name, worker_pb2.DESCRIPTOR.services_by_name]
    methods = {
        f"/{service.full_name}/{method.name}"
        for found in services
        for service in found.values()
        for method in service.methods
    }
    assert set(ACCESS) == methods == set(METHODS) - {REFLECTION}
    assert OTHERS.scope is not None


@pytest.mark.parametrize(("role", "method"), list(product(ROLE_METHODS, METHODS)))
def test_each_token_opens_the_methods_of_its_role(tmp_path: Path, role: str, method: str) -> None:
    expected = Visitor() if method in ROLE_METHODS[role] else DENIED
    assert answer(door(tmp_path), method, bearer(TOKENS[role])) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metadata", [(), bearer(""), bearer(WRONG), (("authorization", TOKENS["worker"]),)])
def test_without_a_token_that_is_known_nothing_opens(
    tmp_path: Path, method: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    assert answer(door(tmp_path), method, metadata) is UNAUTHENTICATED
    assert answer(door(tmp_path, tokens=False), method, metadata) is UNAUTHENTICATED


@pytest.mark.parametrize(("role", "method"), list(product([*Role, "scheduler"], METHODS)))
def test_each_certificate_opens_the_methods_of_its_role(tmp_path: Path, role: str, method: str) -> None:
    mutual = door(tmp_path, tokens=False, roles="")
    expected = Visitor() if method in ROLE_METHODS.get(role, set()) else DENIED
    for names in ([role], ["10.0.0.7", f"spiffe://cluster/ns/pagoda/{role}"]):
        assert answer(mutual, method, names=names) == expected
    # A token proves nothing if no tokens are configured, and a missing certificate has no role.
    assert answer(mutual, method, bearer(TOKENS["shared"]), ["scheduler"]) is DENIED
    assert answer(mutual, method) is DENIED


@pytest.mark.parametrize(("certificate", "token", "method"), list(product(Role, Role, METHODS)))
def test_with_tokens_and_certificates_both_must_be_of_the_role(
    tmp_path: Path, certificate: Role, token: Role, method: str
) -> None:
    opened = answer(door(tmp_path, roles=""), method, bearer(TOKENS[token]), [certificate]) == Visitor()
    assert opened == (certificate is token and method in ROLE_METHODS[token])


def test_a_setting_may_give_every_certificate_every_role(tmp_path: Path) -> None:
    lax = door(tmp_path, tokens=False, roles="any=*")
    assert all(answer(lax, method, names=["whoever"]) == Visitor() for method in METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_private_socket_is_open_until_there_are_keys(tmp_path: Path, method: str) -> None:
    assert answer(door(tmp_path, is_private=True), method) == Visitor()
    assert answer(door(tmp_path, is_private=True), method, bearer(WRONG)) == Visitor()
    assert answer(door(tmp_path, is_private=True, keys=True), method) is UNAUTHENTICATED
    for role, methods in ROLE_METHODS.items():
        opened = answer(door(tmp_path, is_private=True, keys=True), method, bearer(TOKENS[role])) == Visitor()
        # A client's token is not an API key.
        assert opened == (method in methods and role != "client")


@pytest.mark.parametrize("is_private", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_keys_open_public_methods_by_their_scope(tmp_path: Path, method: str, is_private: bool) -> None:
    locked = door(tmp_path, keys=True, is_private=is_private)
    user = Visitor(Caller(key_name="ci", tenant="builds", is_isolated=True, scopes=(Scope.INFERENCE,)))
    operator = Visitor(Caller(key_name="ops", tenant="default", scopes=(Scope.ADMIN,)))
    for metadata in (bearer(USERS), (("x-api-key", USERS),), (*bearer(TOKENS["client"]), ("x-api-key", USERS))):
        expected = user if method in (GENERATE, LIST_MODELS, REFLECTION) else DENIED
        if method in (ATTACH, SESSION):
            assert answer(locked, method, metadata) in (UNAUTHENTICATED, DENIED)
        else:
            assert answer(locked, method, metadata) == expected
    if method in (KEEP_LOADED, GET_LOAD):
        assert answer(locked, method, bearer(OPERATORS)) == operator
    else:
        assert answer(locked, method, bearer(OPERATORS)) in (UNAUTHENTICATED, DENIED)


def test_a_key_over_mutual_tls_needs_a_certificate_of_a_client(tmp_path: Path) -> None:
    both = door(tmp_path, keys=True, tokens=False, roles="")
    assert answer(both, GENERATE, bearer(USERS), ["client"]) == Visitor(
        Caller(key_name="ci", tenant="builds", is_isolated=True, scopes=(Scope.INFERENCE,))
    )
    assert answer(both, GENERATE, (), ["client"]) is UNAUTHENTICATED
    assert answer(both, GENERATE, bearer(USERS), ["worker"]) is DENIED
    assert answer(both, GENERATE, (), ["gateway"]) == Visitor()


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    for asked, method, metadata, words in (
        (door(tmp_path), ATTACH, (), "Attach requires a cluster token with the role worker.*--cluster-token-file"),
        (door(tmp_path), ATTACH, bearer(TOKENS["gateway"]), r"Attach requires the role worker \(this token has: gateway\)"),
        (door(tmp_path, keys=True), GENERATE, (), "A valid API key is required"),
        (door(tmp_path, tokens=False, roles=""), ATTACH, (), r"with the role worker \(this one has: none\).*--tls-roles"),
    ):  # fmt: skip
        with pytest.raises(RefusedError, match=words):
            asked.admit(method, metadata)
