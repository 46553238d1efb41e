"""Cluster tokens: their roles, valid and invalid files, and how changes of files are followed."""

import hmac
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.settings import GatewaySettings
from pagoda.cli.main import app
from pagoda.rpc.certificate_roles import CertificateRoles
from pagoda.rpc.cluster_tokens import (
    ALL_ROLES,
    NO_ROLE,
    ClusterTokenError,
    ClusterTokens,
    Role,
    make_token_file,
    new_token,
    parse_tokens,
)
from pagoda.settings import TierSettings
from scheduler.settings import SchedulerSettings
from worker.settings import WorkerSettings

GATEWAY, WORKER, CLIENT = Role


def test_a_token_is_for_the_role_that_it_names_or_for_all() -> None:
    tokens = {role: new_token(role) for role in Role}
    shared = new_token()
    known = ClusterTokens(text=" ".join([*tokens.values(), shared]))
    for role, token in tokens.items():
        assert known.roles_of(token.encode()) == {role}
        assert known.token_of(role) == token
    assert known.roles_of(shared.encode()) == ALL_ROLES
    assert ClusterTokens(text=shared).token_of(WORKER) == shared
    assert ClusterTokens(text=tokens[GATEWAY]).token_of(WORKER) is None


@pytest.mark.parametrize("change", [str.upper, lambda token: token[:-1], lambda token: token + "0", lambda token: ""])
def test_no_other_token_is_for_anybody(change: Any) -> None:
    token = new_token(WORKER)
    assert ClusterTokens(text=token).roles_of(change(token).encode()) == NO_ROLE


def test_every_token_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [new_token(role) for role in (*Role, None)]
    compared = []

    def count(known: bytes, offered: bytes, compare: Any = hmac.compare_digest) -> bool:
        compared.append(known)
        return bool(compare(known, offered))

    monkeypatch.setattr("pagoda.rpc.cluster_tokens.hmac.compare_digest", count)
    for offered in (tokens[0], tokens[-1], "none of them"):
        compared.clear()
        ClusterTokens(text=" ".join(tokens)).roles_of(offered.encode())
        assert len(set(compared)) == len(tokens)


@pytest.mark.parametrize("text", ["", " \n", "short", "worker-secret", "ä" * 40, "x" * 600])
def test_what_could_be_guessed_is_no_token_and_is_not_repeated(text: str) -> None:
    with pytest.raises(ClusterTokenError, match="pagoda cluster-token") as refused:
        parse_tokens(text, "the file")
    assert not text.strip() or text not in str(refused.value)


def test_a_file_is_followed_and_its_last_token_stays_when_it_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    known = ClusterTokens(paths=(path,))
    assert known.current() == () and not caplog.messages[1:]
    make_token_file(path, WORKER)
    (first,) = known.current()
    renewed = new_token(WORKER)
    path.write_text(f"{renewed}\n{first}\n")
    assert known.token_of(WORKER) == renewed and known.roles_of(first.encode()) == {WORKER}
    caplog.clear()
    path.write_text("broken")
    assert known.current() == known.current() == (renewed, first)
    path.unlink()
    assert known.current() == (renewed, first)
    assert len(caplog.messages) == 2 and renewed not in caplog.text


def test_a_made_file_is_its_owners_alone_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "token"
    make_token_file(path, GATEWAY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    token = path.read_text()
    make_token_file(path, GATEWAY)
    assert path.read_text() == token and list(path.parent.iterdir()) == [path]


def test_others_who_may_read_it_are_told_of_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    make_token_file(path)
    ClusterTokens(paths=(path,)).current()
    assert not caplog.messages
    path.chmod(0o644)
    known = ClusterTokens(paths=(path,))
    assert known.current() == known.current()
    assert caplog.messages == ["cluster token readable by other users; run chmod 600 on it"]


def test_the_command_prints_and_writes_tokens(tmp_path: Path) -> None:
    file = tmp_path / "gateway.token"
    done = CliRunner().invoke(app, ["cluster-token", f"gateway={file}", "worker"])
    assert done.exit_code == 0, done.output
    assert parse_tokens(done.stdout, "output")[0].startswith("worker-")
    (token,) = ClusterTokens(paths=(file,)).current()
    assert token.startswith("gateway-") and token not in done.output
    assert CliRunner().invoke(app, ["cluster-token", f"gateway={file}"]).exit_code == 0
    assert ClusterTokens(paths=(file,)).current() == (token,)
    refused = CliRunner().invoke(app, ["cluster-token", "scheduler"])
    assert refused.exit_code == 1 and "(allowed: gateway, worker, client" in refused.output


@pytest.mark.parametrize("tier", [WorkerSettings, GatewaySettings])
def test_a_tier_needs_a_token_of_its_own_role(
    tier: type[TierSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    role = tier.role
    assert role is not None
    others, own = tmp_path / "others", tmp_path / "own"
    make_token_file(others, CLIENT)
    make_token_file(own, role)
    assert tier(cluster_token_file=f"{others},{own}").security.call_metadata("10.0.0.7:1")
    for file in (others, tmp_path / "missing"):
        with pytest.raises(SystemExit):
            tier.load(["--cluster-token-file", str(file)])
        assert "--cluster-token-file" in capsys.readouterr().err
    monkeypatch.setenv("PAGODA_CLUSTER_TOKEN_FILE", str(own))
    assert tier().cluster_token_file == str(own)
    monkeypatch.delenv("PAGODA_CLUSTER_TOKEN_FILE")
    token = new_token()
    monkeypatch.setenv("PAGODA_CLUSTER_TOKEN", token)
    assert tier().security.call_metadata("unix:/s.sock") == (("authorization", f"Bearer {token}"),)
    assert token not in str(tier().described()) + repr(tier().security)


def test_the_token_of_a_home_stays_on_its_machine(tmp_path: Path) -> None:
    make_token_file(tmp_path / "cluster-token")
    security = WorkerSettings(home=tmp_path).security
    assert security.call_metadata("127.0.0.1:50051") and security.call_metadata("unix:/s.sock")
    assert not security.call_metadata("10.0.0.7:50051") and not security.call_metadata("scheduler:50051")


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "scheduler:1"])
def test_no_scheduler_opens_its_door_to_the_network_without_tokens(address: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"without cluster tokens.*pagoda cluster-token.*--cluster-token-file.*--tls-ca"
    ):
        SchedulerSettings(listen=address, plaintext=True)
    make_token_file(tmp_path / "token")
    assert SchedulerSettings(listen=address, plaintext=True, cluster_token_file=str(tmp_path / "token"))


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (["worker"], WORKER),
        (["WORKER"], WORKER),
        (["10.0.0.7", "worker-0.worker.pagoda.svc"], WORKER),
        (["worker.pagoda.svc.cluster.local"], WORKER),
        (["spiffe://cluster.local/ns/pagoda/sa/worker"], WORKER),
        (["gateway", "gateway-7f9c-x"], GATEWAY),
        (["client"], CLIENT),
        (["scheduler-0.scheduler"], None),
        (["workers.example", "myworker", "a.worker", "spiffe://worker/ns/other", "spiffe://c/worker/other"], None),
        ([], None),
    ],
)
def test_usual_names_of_certificates(names: list[str], role: Role | None) -> None:
    assert CertificateRoles.parse("").of(names) == ({role} if role else NO_ROLE)


def test_a_mapping_takes_the_place_of_the_usual_names() -> None:
    mapped = CertificateRoles.parse("worker=*.Workers.example, gateway=edge-*,gateway=spiffe://x/edge")
    assert mapped.of(["a.workers.example"]) == {WORKER}
    assert mapped.of(["edge-1"]) == mapped.of(["spiffe://x/edge"]) == {GATEWAY}
    assert mapped.of(["worker"]) == NO_ROLE
    assert CertificateRoles.parse("any=*").of(["whoever"]) == ALL_ROLES
    for wrong in ("worker", "worker=", "boss=*", "=x"):
        with pytest.raises(ValueError, match="must be ROLE=NAME"):
            SchedulerSettings(tls_roles=wrong)
