"""Where the unix sockets of a home are, who can reach them, how one is taken over from a process that is gone, and which addresses
are local.

It deals in paths, and in the targets that gRPC understands (`unix:/path.sock`).
"""

import hashlib
import ipaddress
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The kernel's limit for a socket's path is 108 bytes on Linux and 104 elsewhere, the closing zero included.
MAX_SOCKET_PATH_BYTES = 100
UNIX_PREFIX = "unix:"


class ForeignDirectoryError(OSError):
    """Another user could read or replace what is in the directory."""


class SocketInUseError(OSError):
    """A living process listens on the socket, or something that is no socket has its name."""


def default_home() -> Path:
    """PAGODA_HOME, or ~/.pagoda: models, sockets, logs and state."""
    return Path(os.environ.get("PAGODA_HOME") or Path.home() / ".pagoda").expanduser()


def scheduler_address(home: Path, instance: str = "") -> str:
    """Where a scheduler listens unless told otherwise. The instance tells systems that share a home apart."""
    return UNIX_PREFIX + str(socket_directory(home, instance) / "scheduler.sock")


def socket_directory(home: Path, instance: str) -> Path:
    """`HOME/run/<instance>`; where that is too long for a socket, a short one under the temporary directory."""
    directory = home.absolute() / "run" / instance
    if len(str(directory / "scheduler.sock").encode()) <= MAX_SOCKET_PATH_BYTES:
        return directory
    # The name is a digest of the long one, so that every process of this home finds the same directory.
    return Path(tempfile.gettempdir()) / f"pagoda-{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"


def unix_path(address: str) -> Path | None:
    """The path of a unix target; None for `host:port`."""
    if not address.startswith(UNIX_PREFIX):
        return None
    # gRPC spells an absolute path as unix:/path or unix:///path.
    return Path(address.removeprefix(UNIX_PREFIX).replace("///", "/", 1))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than localhost may mean anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(address: str) -> bool:
    """A unix target, or a `host:port` on loopback."""
    host, _, _ = address.rpartition(":")
    return unix_path(address) is not None or is_loopback(host.removeprefix("[").removesuffix("]"))


@contextmanager
def private_files() -> Iterator[None]:
    """What is made meanwhile, a socket too, is for this user alone. For a start: the process has one mask for all its threads."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_private_directory(directory: Path) -> None:
    """Make a directory for this user alone, or take from others what they may do in one that is there.

    Raises ForeignDirectoryError for one that another user owns, and for a link: who made it could exchange what is in it.
    """
    for parent in reversed(directory.parents):
        if not parent.exists():
            with suppress(FileExistsError):
                # Whatever the mask: who may write to a parent could exchange the directory.
                parent.mkdir(mode=0o755)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ForeignDirectoryError(f"{directory} is no directory of yours ({error.strerror}): move it away") from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise ForeignDirectoryError(
                f"{directory} belongs to another user (number {status.st_uid}), who could read and replace what is in it: "
                "move it away, or set PAGODA_HOME to a directory of your own"
            )
        if status.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def make_socket_directory(home: Path, instance: str = "") -> None:
    """Make the directory of `scheduler_address` before anybody else can, and close it to others. Raises ForeignDirectoryError."""
    make_private_directory(socket_directory(home, instance))


def refuse_foreign_directory(directory: Path) -> None:
    """Raises ForeignDirectoryError for a directory of another user, who could replace the socket in it. Root may be one."""
    with suppress(FileNotFoundError):
        owner = directory.stat().st_uid
        if owner not in (0, os.geteuid()):
            raise ForeignDirectoryError(
                f"{directory} belongs to another user (number {owner}), who could replace the socket in it: name a socket in a "
                "directory of your own"
            )


def claim_socket(path: Path) -> None:
    """Make room for a socket: its directory exists, and a dead process's file is gone.

    A directory that is missing is made for this user alone. One that somebody has chosen is left as it is, since the socket itself
    is closed to others, unless another user owns it. Raises SocketInUseError and ForeignDirectoryError.
    """
    if path.parent.exists():
        refuse_foreign_directory(path.parent)
    else:
        make_private_directory(path.parent)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUseError(f"{path} exists and is not a socket; move it away")
    if _is_listening(path):
        raise SocketInUseError(f"another process listens on {path}; stop it, or choose another address")
    path.unlink(missing_ok=True)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
