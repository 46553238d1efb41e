"""Run directories, sockets and logs are private to their owner, whatever makes them first and whatever the umask."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from pagoda.cli.child import Child, ChildCommand
from pagoda.cli.serve import ServeError, make_run_directory
from pagoda.cli.tiers import ServeOptions
from pagoda.rpc.grpc_server import GrpcServer
from pagoda.rpc.sockets import (
    ForeignDirectoryError,
    claim_socket,
    make_private_directory,
    make_socket_directory,
    socket_directory,
    unix_path,
)
from worker.settings import WorkerSettings


@pytest.fixture(params=[0o002, 0o022, 0o000])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def options(home: Path) -> ServeOptions:
    return ServeOptions(models=("tiny",), host="127.0.0.1", port=8000, home=home)


@pytest.mark.usefixtures("mask")
def test_a_run_directory_is_private_and_so_are_those_above_it_from_writers(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    make_run_directory(options(home))
    assert mode(home / "run") == mode(home / "run" / "8000") == 0o700
    assert mode(home) == mode(home.parent) == 0o755


def test_one_that_was_open_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "8000"
    directory.mkdir(parents=True)
    for path in (directory.parent, directory):
        path.chmod(0o777)
    (directory / "gateway.log").touch()
    make_run_directory(options(tmp_path))
    assert mode(directory) == mode(directory.parent) == 0o700
    assert (directory / "gateway.log").exists()


@pytest.mark.usefixtures("mask")
def test_the_short_directory_of_a_long_home_is_private_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    home = tmp_path / ("h" * 100)
    make_socket_directory(home, "8000")
    directory = socket_directory(home, "8000")
    assert directory.parent == tmp_path / "tmp" and mode(directory) == 0o700
    directory.chmod(0o755)
    make_run_directory(options(home))
    assert mode(directory) == 0o700


def test_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link's owner could redirect the socket to a place that they can read."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home, elsewhere = tmp_path / ("h" * 100), tmp_path / "elsewhere"
    elsewhere.mkdir()
    socket_directory(home, "8000").symlink_to(elsewhere)
    with pytest.raises(ForeignDirectoryError, match="cannot be used as a private directory"):
        make_socket_directory(home, "8000")
    with pytest.raises(ServeError, match="move it away"):
        make_run_directory(options(home))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ForeignDirectoryError):
        make_private_directory(file)


def test_another_users_directory_is_refused_by_all_who_would_meet_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    # The directory belongs to another user, whichever user runs the tests.
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:
        os.chown(theirs, 12345, 12345)
    address = f"unix:{theirs}/scheduler.sock"
    with pytest.raises(ForeignDirectoryError, match="belongs to another user"):
        make_private_directory(theirs)
    with pytest.raises(ForeignDirectoryError, match="belongs to another user"):
        claim_socket(theirs / "scheduler.sock")
    for tier in (WorkerSettings, GatewaySettings):
        with pytest.raises(ValueError, match="belongs to another user"):
            tier(scheduler=address)


@pytest.fixture
def open_directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.mark.usefixtures("mask")
async def test_a_socket_is_private_also_in_a_directory_that_is_not(open_directory: Path) -> None:
    for address in (f"unix:{open_directory}/s.sock", f"unix:{open_directory}/new/s.sock"):
        server = GrpcServer(address)
        await server.start([])
        path = unix_path(address)
        assert path is not None and stat.S_ISSOCK(path.stat().st_mode)
        assert mode(path) & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
        await server.stop(0)
    # An existing directory keeps its permissions; a missing one is made private.
    assert mode(open_directory) == 0o777 and mode(open_directory / "new") == 0o700


@pytest.mark.usefixtures("mask")
async def test_a_log_is_private_and_no_link_is_followed(tmp_path: Path) -> None:
    log = tmp_path / "tier.log"
    log.write_text("before\n")
    log.chmod(0o666)
    command = ChildCommand(name="tier", arguments=[sys.executable, "-c", "print('said')"], log=log)
    assert await (await Child.start(command)).wait() == 0
    assert log.read_text() == "before\nsaid\n" and mode(log) == 0o600
    log.unlink()
    log.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        await Child.start(command)
    assert not (tmp_path / "elsewhere").exists()
