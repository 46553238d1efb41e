"""Where the unix sockets of a home are, how one is taken over from a process that is gone, and which addresses are local.

Knows nothing about gRPC: it deals in paths, and in the targets that gRPC understands (`unix:/path.sock`).
"""

import hashlib
import ipaddress
import socket
import stat
import tempfile
from pathlib import Path

# The kernel's limit for a socket's path is 108 bytes on Linux and 104 elsewhere, the closing zero included.
MAX_SOCKET_PATH_BYTES = 100
UNIX_PREFIX = "unix:"


class SocketInUseError(OSError):
    """A living process listens on the socket, or something that is no socket has its name."""


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


def claim_socket(path: Path) -> None:
    """Make room for a socket: its directory exists, for this user alone, and a dead process's file is gone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
