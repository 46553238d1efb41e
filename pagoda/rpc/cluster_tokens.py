"""The secrets by which the tiers of one cluster know each other over gRPC, and the files that hold them.

A token says whose it is: `gateway-…`, `worker-…` or `client-…`; one without such a beginning is for every role. A scheduler is told
the tokens of all roles, everybody else its own. Files are read again when they change, so tokens are exchanged without a restart.
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
"""Its name under PAGODA_HOME: what the tiers of one home use on this machine where nobody has told them otherwise."""
_SECRET_BYTES = 32
_TOKEN = re.compile(r"[\x21-\x7e]{32,512}")

_Signature = tuple[int, int, int]


class ClusterTokenError(ValueError):
    """A sentence about a file or a variable. Never repeats a token."""


class Role(StrEnum):
    GATEWAY = "gateway"
    """It speaks for its own clients: the scheduler believes whose request it says that it is."""
    WORKER = "worker"
    """It computes, and so reads prompts."""
    CLIENT = "client"
    """It uses the public methods, where no API keys say who may."""


ALL_ROLES = frozenset(Role)
NO_ROLE: frozenset[Role] = frozenset()


def new_token(role: Role | None = None) -> str:
    return f"{f'{role}-' if role else ''}{secrets.token_hex(_SECRET_BYTES)}"


def roles_named_by(token: str) -> frozenset[Role]:
    word = token.partition("-")[0]
    return frozenset({Role(word)}) if word in ALL_ROLES else ALL_ROLES


def parse_tokens(text: str, source: str) -> tuple[str, ...]:
    """Return the tokens between white space. Raises ClusterTokenError where there is none, or one that could be guessed."""
    tokens = tuple(text.split())
    if not tokens:
        raise ClusterTokenError(f"{source} holds no cluster token: pagoda cluster-token makes one")
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise ClusterTokenError(
            f"{source} holds something that is no cluster token: 32 to 512 visible ASCII characters, such as pagoda "
            "cluster-token makes"
        )
    return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTokens:
    """The tokens of some files and of a text, as they are now. A file that cannot be read any more is logged, and what it held last
    stays in force; before it was there at all it holds nothing."""

    paths: tuple[Path, ...] = ()
    text: str = field(default="", repr=False)
    _known: dict[Path, tuple[_Signature | None, tuple[str, ...]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def told(cls, files: str) -> "ClusterTokens | None":
        """Return those of files that are named between commas, and of PAGODA_CLUSTER_TOKEN; None where there is neither."""
        paths = tuple(Path(name.strip()).expanduser() for name in files.split(",") if name.strip())
        text = os.environ.get("PAGODA_CLUSTER_TOKEN", "").strip()
        return cls(paths=paths, text=text) if paths or text else None

    @classmethod
    def of_home(cls, home: Path) -> "ClusterTokens":
        return cls(paths=(home / HOME_TOKEN_FILE,))

    def read(self) -> None:
        """Raises ClusterTokenError for a file or a text that is no list of tokens."""
        for path in self.paths:
            _read(path)
        if self.text:
            parse_tokens(self.text, "PAGODA_CLUSTER_TOKEN")

    def current(self) -> tuple[str, ...]:
        return tuple(token for path in self.paths for token in self._of(path)) + tuple(self.text.split())

    def token_of(self, role: Role) -> str | None:
        """Return the first token with which that role is believed."""
        return next((token for token in self.current() if role in roles_named_by(token)), None)

    def roles_of(self, offered: bytes) -> frozenset[Role]:
        """Return for whom the offered token is. It is compared with every token, in constant time each."""
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
                    logger.warning("other users may read the cluster token; chmod 600 it", extra={"path": path})
            except ClusterTokenError as error:
                logger.error(
                    "cluster token file is unusable, its last tokens stay in force", extra={"reason": str(error)}
                )
            self._known[path] = signature, tokens
        return tokens


def make_token_file(path: Path, role: Role | None = None) -> None:
    """Make a new token, in a file for its owner alone, unless the file is there. Raises OSError."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_token(role) + "\n")
        # Unlike a rename it fails where another process was sooner: then both use that one's.
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()


def _read(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ClusterTokenError(f"cannot read the cluster token in {path}: {error.strerror or error}") from None
    return parse_tokens(text, str(path))


def _signature(path: Path) -> _Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
