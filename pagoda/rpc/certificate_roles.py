"""Roles of a certificate by its names, for a scheduler that requires certificates.

A name is a DNS name or a URI of the certificate, or its common name. Patterns are shell patterns: `*` matches anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pagoda.rpc.cluster_tokens import ALL_ROLES, NO_ROLE, Role

ANY = "any"
"""Word for all roles in a mapping."""


def _usual_names(role: Role) -> tuple[str, ...]:
    """Return the default patterns, which match `worker`, `worker-0.worker.pagoda.svc` or `spiffe://cluster/ns/pagoda/worker`."""
    return role.value, f"{role}.*", f"{role}-*", f"*://*/{role}"


USUAL_NAMES = tuple((pattern, frozenset({role})) for role in Role for pattern in _usual_names(role))


@dataclass(frozen=True, slots=True)
class CertificateRoles:
    """A mapping from name patterns to roles."""

    patterns: tuple[tuple[str, frozenset[Role]], ...] = USUAL_NAMES

    @classmethod
    def parse(cls, mapping: str) -> "CertificateRoles":
        """Parse a mapping such as `worker=*.workers.example,gateway=edge-*`; an empty one is the default. Raises ValueError."""
        entries = [entry.strip() for entry in mapping.split(",") if entry.strip()]
        return cls(tuple(map(_entry, entries))) if entries else cls()

    def of(self, names: Iterable[str]) -> frozenset[Role]:
        lower = [name.lower() for name in names]
        return NO_ROLE.union(
            *(roles for pattern, roles in self.patterns if any(fnmatchcase(name, pattern.lower()) for name in lower))
        )


def _entry(entry: str) -> tuple[str, frozenset[Role]]:
    word, is_there, pattern = entry.partition("=")
    if word not in (*Role, ANY) or not is_there or not pattern:
        raise ValueError(
            f"each item must be ROLE=NAME, where ROLE is {', '.join(Role)} or {ANY}, such as worker=*.workers.example "
            f"(got {entry!r})"
        )
    return pattern, ALL_ROLES if word == ANY else frozenset({Role(word)})
