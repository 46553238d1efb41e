"""Cluster tokens: the secrets by which the tiers of a cluster authenticate over gRPC, and the files that hold them.

A token begins with its role: `gateway-…`, `worker-…` or `client-…`. A token without a role is valid for all roles. A scheduler is
configured with the tokens of all roles, any other tier with its own. Files are read again when they change, so that tokens can be
replaced without a restart.
"""

import hmac
import logging
import os
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

logger = logging.getLogger(__name__)

HOME_TOKEN_FILE = "cluster-token"
"""Name of the token file under PAGODA_HOME that the tiers of one home use on this machine by default."""
_SECRET_BYTES = 32
_TOKEN = re.compile(r"[\x21-\x7e]{32,512}")

_Signature = tuple[int, int, int]


class ClusterTokenError(ValueError):
    """An unusable file or variable of tokens. The message contains no token."""


class Role(StrEnum):
    """The role in which a process calls a scheduler."""

    GATEWAY = "gateway"
    """A caller that acts for its own clients. The scheduler trusts the tenant that it names."""
    WORKER = "worker"
    """A caller that computes steps, and so reads prompts."""
    CLIENT = "client"
    """A caller of the public methods, if no API keys are configured."""


ALL_ROLES = frozenset(Role)
NO_ROLE: frozenset[Role] = frozenset()


def new_token(role: Role | None = None) -> str:
    return f"{f'{role}-' if role else ''}{secrets.token_hex(_SECRET_BYTES)}"


def roles_named_by(token: str) -> frozenset[Role]:
    word = token.partition("-")[0]
    return frozenset({Role(word)}) if word in ALL_ROLES else ALL_ROLES


def parse_tokens(text: str, source: str) -> tuple[str, ...]:
    """Return the tokens, which are separated by white space. Raises ClusterTokenError if there is none, or one is malformed."""
    tokens = tuple(text.split())
    if not tokens:
        raise ClusterTokenError(f"{source} contains no cluster token; make one: pagoda cluster-token ROLE")
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise ClusterTokenError(
            f"{source} contains a malformed cluster token: it must be 32 to 512 visible ASCII characters; make one: pagoda "
            "cluster-token ROLE"
        )
    return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTokens:
    """The current tokens of some files and a text.

    A file that becomes unreadable is logged, and its last tokens stay valid. A file that never existed has no tokens.
    """

    paths: tuple[Path, ...] = ()
    text: str = field(default="", repr=False)
    _known: dict[Path, tuple[_Signature | None, tuple[str, ...]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def told(cls, files: str) -> "ClusterTokens | None":
        """Return the tokens of comma-separated files and of PAGODA_CLUSTER_TOKEN, or None if neither is set."""
        paths = tuple(Path(name.strip()).expanduser() for name in files.split(",") if name.strip())
        text = os.environ.get("PAGODA_CLUSTER_TOKEN", "").strip()
        return cls(paths=paths, text=text) if paths or text else None

    @classmethod
    def of_home(cls, home: Path) -> "ClusterTokens":
        return cls(paths=(home / HOME_TOKEN_FILE,))

    def read(self) -> None:
        """Read all tokens once. Raises ClusterTokenError if a file or the text is unusable."""
        for path in self.paths:
            _read(path)
        if self.text:
            parse_tokens(self.text, "PAGODA_CLUSTER_TOKEN")

    def current(self) -> tuple[str, ...]:
        return tuple(token for path in self.paths for token in self._of(path)) + tuple(self.text.split())

    def token_of(self, role: Role) -> str | None:
        """Return the first token that is valid for the role, or None."""
        return next((token for token in self.current() if role in roles_named_by(token)), None)

    def roles_of(self, offered: bytes) -> frozenset[Role]:
        """Return the roles of the offered token. It is compared with all tokens, each in constant time."""
        roles, digest = NO_ROLE, sha256(offered).digest()
        for token in self.current():
            if hmac.compare_digest(sha256(token.encode()).digest(), digest):
                roles |= roles_named_by(token)
        return roles

    def _of(self, path: Path) -> tuple[str, ...]:
        signature = _signature(path)
        before, tokens = self._known.get(path, (None, ()))
        if signature != before:
            try:
                tokens = _read(path)
                if path.stat().st_mode & 0o007:
                    logger.warning("cluster token readable by other users; run chmod 600 on it", extra={"path": path})
            except ClusterTokenError as error:
                logger.error("cluster token file unusable; its last tokens stay valid", extra={"reason": str(error)})
            self._known[path] = signature, tokens
        return tokens


def make_token_file(path: Path, role: Role | None = None) -> None:
    """Write a new token to a file that only its owner may read, unless the file exists. Raises OSError."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_token(role) + "\n")
        # Unlike a rename, a link fails if another process made the file first; then both use that one.
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()


def _read(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ClusterTokenError(f"cannot read the cluster token file {path}: {error.strerror or error}") from None
    return parse_tokens(text, str(path))


def _signature(path: Path) -> _Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
