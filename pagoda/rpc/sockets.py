"""Unix sockets of a home: their paths and permissions, the takeover of a dead process's socket, and which addresses are local.

Addresses are gRPC targets, such as `unix:/path.sock`.
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

# The kernel's limit for a socket's path is 108 bytes on Linux and 104 on others, including the final zero.
MAX_SOCKET_PATH_BYTES = 100
UNIX_PREFIX = "unix:"


class ForeignDirectoryError(OSError):
    """Another user could read or replace the contents of the directory."""


class SocketInUseError(OSError):
    """A running process listens on the socket, or a file that is not a socket has its name."""


def default_home() -> Path:
    """Return PAGODA_HOME, or ~/.pagoda: the directory of models, sockets, logs and state."""
    return Path(os.environ.get("PAGODA_HOME") or Path.home() / ".pagoda").expanduser()


def scheduler_address(home: Path, instance: str = "") -> str:
    """Return the default address of a scheduler. `instance` distinguishes systems that share a home."""
    return UNIX_PREFIX + str(socket_directory(home, instance) / "scheduler.sock")


def socket_directory(home: Path, instance: str) -> Path:
    """Return `HOME/run/<instance>`, or a shorter path under the temporary directory if that is too long for a socket."""
    directory = home.absolute() / "run" / instance
    if len(str(directory / "scheduler.sock").encode()) <= MAX_SOCKET_PATH_BYTES:
        return directory
    # The name is a digest of the long path, so that every process of this home finds the same directory.
    return Path(tempfile.gettempdir()) / f"pagoda-{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"


def unix_path(address: str) -> Path | None:
    """Return the path of a unix target, or None for `host:port`."""
    if not address.startswith(UNIX_PREFIX):
        return None
    # gRPC accepts an absolute path as unix:/path or unix:///path.
    return Path(address.removeprefix(UNIX_PREFIX).replace("///", "/", 1))


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the host. Any name other than localhost may resolve to another machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(address: str) -> bool:
    """Return True for a unix target, or a `host:port` on loopback."""
    host, _, _ = address.rpartition(":")
    return unix_path(address) is not None or is_loopback(host.removeprefix("[").removesuffix("]"))


def check_address(address: str) -> None:
    """Raise ValueError unless the address is a unix target or ends with a port. gRPC takes other ports modulo 65536."""
    port = address.rpartition(":")[2]
    if unix_path(address) is None and not (
        port.isascii() and port.isdecimal() and int(port) < 65536 and ":" in address
    ):
        raise ValueError(f"an address must be HOST:PORT, with a port of at most 65535, or unix:/PATH (got {address!r})")


@contextmanager
def private_files() -> Iterator[None]:
    """Make files and sockets that are created in the block accessible to this user only.

    Use it only while the process starts, because the mask applies to all threads.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_private_directory(directory: Path) -> None:
    """Make a directory that only this user may access, or remove other users' permissions from an existing one.

    Raises ForeignDirectoryError for a directory of another user, and for a symbolic link, whose owner could redirect it.
    """
    for parent in reversed(directory.parents):
        if not parent.exists():
            with suppress(FileExistsError):
                # Not writable for others, regardless of the umask: they could replace the directory.
                parent.mkdir(mode=0o755)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ForeignDirectoryError(
            f"{directory} cannot be used as a private directory ({error.strerror}); move it away"
        ) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise ForeignDirectoryError(
                f"{directory} belongs to another user (uid {status.st_uid}), who could read and replace its contents; move it "
                "away, or set PAGODA_HOME to a directory that you own"
            )
        if status.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def make_socket_directory(home: Path, instance: str = "") -> None:
    """Make the private directory of `scheduler_address` before another user can make it. Raises ForeignDirectoryError."""
    make_private_directory(socket_directory(home, instance))


def refuse_foreign_directory(directory: Path) -> None:
    """Raise ForeignDirectoryError for a directory of another user, who could replace the socket in it. Root is trusted."""
    with suppress(FileNotFoundError):
        owner = directory.stat().st_uid
        if owner not in (0, os.geteuid()):
            raise ForeignDirectoryError(
                f"{directory} belongs to another user (uid {owner}), who could replace the socket in it; use a socket in a "
                "directory that you own"
            )


def claim_socket(path: Path) -> None:
    """Prepare the path of a socket: make its directory and remove the file of a dead process.

    A missing directory is made private. The permissions of an existing one are kept, because the socket itself is private.
    Raises SocketInUseError, and ForeignDirectoryError if another user owns the directory.
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
        raise SocketInUseError(f"another process listens on {path}; stop it, or use another address")
    path.unlink(missing_ok=True)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
