"""`pagoda serve`: what it refuses before it starts anything, and how it configures its children."""

import asyncio
import os
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pagoda.api_keys.key_file import KeyEntry, KeyFile
from pagoda.cli.child import ChildCommand
from pagoda.cli.readiness import LoadingWatch, NotReadyError, wait_for_workers
from pagoda.cli.serve import ServeError, StopSignals, check_exposure, check_port, check_tracing
from pagoda.cli.supervisor import Supervisor
from pagoda.cli.tiers import ServeOptions, tier_commands
from pagoda.rpc.cluster_tokens import Role


def options(home: Path, **values: object) -> ServeOptions:
    return ServeOptions(**{"models": ("tiny",), "host": "127.0.0.1", "port": 8000, "home": home, **values})  # type: ignore[arg-type]  # the tests' shorthand


def add_key(file: Path) -> None:
    entry = KeyEntry(name="k", sha256="0" * 64, created_at=datetime(2026, 1, 31, tzinfo=UTC))
    KeyFile(file).add(entry)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-host"])
def test_a_public_address_needs_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(ServeError, match="--api-key"):
        check_exposure(options(tmp_path, host=host))
    check_exposure(options(tmp_path, host=host, api_key="sesame"))


def test_a_key_of_a_file_or_the_environment_will_do(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json")
    check_exposure(options(tmp_path, host="0.0.0.0"))
    check_exposure(options(tmp_path / "other", host="0.0.0.0", keys_file=tmp_path / "keys.json"))
    check_exposure(options(tmp_path / "other", host="0.0.0.0", keys=(tmp_path / "keys.json").read_text()))


@pytest.mark.parametrize("content", [None, "", "{", '{"keys": []}'])
def test_a_file_without_keys_will_not(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ServeError, match="key"):
        check_exposure(options(tmp_path, host="0.0.0.0"))
    with pytest.raises(ServeError, match="key"):
        check_exposure(options(tmp_path, host="0.0.0.0", keys_file=file))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(tmp_path: Path, host: str) -> None:
    check_exposure(options(tmp_path, host=host))


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port}: Address already in use"):
            check_port(options(tmp_path, port=port))


async def test_workers_that_do_not_come_are_a_sentence_with_what_their_logs_said_last(tmp_path: Path) -> None:
    serving = options(tmp_path, num_workers=2)
    serving.log_directory.mkdir(parents=True)
    (serving.log_directory / "worker-2.log").write_text("starts\nloading model\n")
    with pytest.raises(NotReadyError) as late:
        await wait_for_workers(serving, deadline_s=0.2)
    assert "only 0 of 2 workers attached within 0.2 s." in str(late.value)
    assert "--workers" in str(late.value) and str(late.value).endswith("worker-2.log: loading model")


async def test_the_limit_counts_from_the_last_progress_of_a_load(tmp_path: Path) -> None:
    serving = options(tmp_path)
    serving.log_directory.mkdir(parents=True)
    async with asyncio.timeout(300.0) as limit:
        watch = LoadingWatch(serving, limit, deadline_s=1000.0)
        before = limit.when()
        watch.prolong()
        assert limit.when() == before
        serving.progress_file("worker").write_text("1 2")
        watch.prolong()
        after = limit.when()
        assert before is not None and after is not None and after > before + 600
        await asyncio.sleep(0)
        watch.prolong()
        assert limit.when() == after


def test_the_key_is_in_no_command_line(tmp_path: Path) -> None:
    commands = tier_commands(options(tmp_path, api_key="sesame"))
    assert [command.name for command in commands] == ["gateway", "worker", "scheduler"]
    assert not any("sesame" in argument for command in commands for argument in command.arguments)
    assert "sesame" in commands[0].environment.values()


def test_the_gateway_is_told_what_requests_sample_with(tmp_path: Path) -> None:
    given = options(tmp_path, sampling_defaults="neutral", default_max_tokens=256)
    gateway, *others = (command.arguments for command in tier_commands(given))
    assert gateway[gateway.index("--sampling-defaults") + 1] == "neutral"
    assert gateway[gateway.index("--default-max-tokens") + 1] == "256"
    assert not any("--sampling-defaults" in each for each in (*others, tier_commands(options(tmp_path))[0].arguments))


def test_workers_have_names_and_logs_of_their_own_and_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagoda.cli.tiers.usable_cores", lambda: 8)
    _, first, second, third, _ = tier_commands(options(tmp_path, num_workers=3))
    assert [command.name for command in (first, second, third)] == ["worker-1", "worker-2", "worker-3"]
    assert len({command.log for command in (first, second, third)}) == 3
    for command in (first, second, third):
        assert command.arguments[command.arguments.index("--threads") + 1] == "2"
    assert "--threads" not in tier_commands(options(tmp_path))[1].arguments


def test_both_doors_are_told_of_keys_and_workers_are_not(tmp_path: Path) -> None:
    given = options(tmp_path, keys_file=tmp_path / "keys.json", keys='{"keys": []}', api_key="sesame")
    gateway, worker, scheduler = tier_commands(given)
    for tier in (gateway, scheduler):
        assert "--keys-file" in tier.arguments
        prefix = f"PAGODA_{tier.name.upper()}_"
        assert tier.environment == {f"{prefix}KEYS": '{"keys": []}', f"{prefix}API_KEY": "sesame"}
    assert not worker.environment and not any("keys" in word for word in worker.arguments if not word.startswith("/"))


def test_each_tier_is_told_its_own_token_and_the_scheduler_all(tmp_path: Path) -> None:
    def told(command: ChildCommand) -> list[Path]:
        files = command.arguments[command.arguments.index("--cluster-token-file") + 1].split(",")
        return [Path(file) for file in files]

    given = options(tmp_path)
    gateway, worker, scheduler = map(told, tier_commands(given))
    assert [gateway, worker] == [[given.token_file(Role.GATEWAY)], [given.token_file(Role.WORKER)]]
    assert set(scheduler) == {given.token_file(role) for role in Role}


def test_traces_go_where_every_tier_is_told(tmp_path: Path) -> None:
    traced = options(tmp_path, otlp_endpoint="http://127.0.0.1:4317")
    check_tracing(traced)
    for command in tier_commands(traced):
        assert command.arguments[-2:] == ["--otlp-endpoint", "http://127.0.0.1:4317"]
    with pytest.raises(ServeError, match="--otlp-endpoint"):
        check_tracing(options(tmp_path, otlp_endpoint="127.0.0.1:4317"))


def test_urls(tmp_path: Path) -> None:
    assert options(tmp_path, host="0.0.0.0").url == "http://127.0.0.1:8000"
    assert options(tmp_path, host="::1").url == "http://[::1]:8000"


async def test_the_first_signal_asks_and_the_second_one_kills() -> None:
    killed = asyncio.Event()

    class Killable(Supervisor):
        def kill(self) -> None:
            killed.set()

    signals = StopSignals(Killable([], say=print, grace_s=0))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await signals.first.wait()
        assert (signals.status, killed.is_set()) == (0, False)
        os.kill(os.getpid(), signal.SIGINT)
        await killed.wait()
        assert signals.status == 130
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
