"""Implementation of `pagoda key`, which makes entries from options, and lists them without their digests.

pagoda/api_keys/key_file.py reads and writes the file.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pagoda.api_keys.key_file import KeyEntry, KeyFile, KeysError, Scope, digest_of, new_key
from pagoda.cli import human
from pagoda.cli.failure import CommandError

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DURATION = re.compile(r"([1-9][0-9]{0,4})([mhdw])")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """The options of `pagoda key create`, not yet validated."""

    name: str
    tenant: str
    scopes: Sequence[str]
    expires: str | None
    isolated: bool
    priority_floor: int = 0


def create_key(file: Path, request: KeyRequest) -> tuple[str, KeyEntry]:
    """Add a new key to the file; return the key, which is stored nowhere, and its entry."""
    key = new_key()
    entry = _entry(request, digest_of(key.encode()), _now())
    with _in_sentences():
        KeyFile(file).add(entry)
    return key, entry


def list_keys(file: Path) -> tuple[KeyEntry, ...]:
    """Return the entries of the file, or an empty tuple if there is no file."""
    with _in_sentences():
        return KeyFile(file).read() if file.exists() else ()


def revoke_key(file: Path, name: str) -> KeyEntry:
    with _in_sentences():
        return KeyFile(file).revoke(name, _now())


def is_open_to_others(file: Path) -> bool:
    return file.exists() and KeyFile(file).is_open_to_others()


def keys_page(entries: Sequence[KeyEntry]) -> str:
    rows = [_row(entry, _now()) for entry in entries]
    return human.table([["NAME", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES"], *rows])


def facts(entry: KeyEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude={"sha256"}) | {"state": entry.state(_now())}


def _row(entry: KeyEntry, now: datetime) -> list[str]:
    expires = "never" if entry.expires_at is None else human.moment(entry.expires_at, now)
    tenant = f"{entry.tenant} (isolated)" if entry.isolated else entry.tenant
    created = human.moment(entry.created_at, now)
    scopes = ",".join(entry.scopes) + (f" (priority >= {entry.priority_floor})" if entry.priority_floor else "")
    return [entry.name, tenant, scopes, entry.state(now), created, expires]


def _entry(request: KeyRequest, digest: str, now: datetime) -> KeyEntry:
    try:
        return KeyEntry(
            name=request.name,
            sha256=digest,
            tenant=request.tenant,
            scopes=tuple(dict.fromkeys(map(_scope, request.scopes))),
            isolated=request.isolated,
            priority_floor=request.priority_floor,
            created_at=now,
            expires_at=None if request.expires is None else now + _duration(request.expires),
        )
    except ValidationError as error:
        field = error.errors()[0]["loc"][0]
        if field == "priority_floor":
            raise CommandError(
                f"--priority-floor must be a 32-bit signed integer (got {request.priority_floor})"
            ) from None
        raise CommandError(
            f"the {field} must be 1 to 64 letters, digits or . _ @ - and begin with a letter or digit "
            f"(got {getattr(request, str(field), None)!r})"
        ) from None


def _scope(word: str) -> Scope:
    try:
        return Scope(word)
    except ValueError:
        raise CommandError(f"unknown scope {word!r} (allowed: {', '.join(Scope)})") from None


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise CommandError(f"--expires must be a number followed by m, h, d or w, such as 30d (got {text!r})")
    return int(match[1]) * _UNITS[match[2]]


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _in_sentences() -> Iterator[None]:
    try:
        yield
    except KeysError as error:
        raise CommandError(str(error)) from None
