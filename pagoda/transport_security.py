"""What protects gRPC between the tiers: certificates in files, and the places where clear text may be spoken.

Makes credentials for channels and servers, and says in a sentence why a connection failed. Knows nothing about either end's
services. A unix socket needs no protection: its directory is its user's alone.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from pagoda.sockets import is_local, unix_path

logger = logging.getLogger(__name__)

_Configuration = grpc.ServerCertificateConfiguration
ChannelFiles = tuple[bytes | None, bytes | None, bytes | None]
"""The authority, the key and the certificate."""


class InsecureAddressError(ValueError):
    """Clear text would leave this machine, and nobody has allowed that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSecurity:
    """As the settings have it, whose files were read once: what fails later has changed on disk."""

    certificate: Path | None = None
    """What this process shows: a server always, a client when it is asked."""
    key: Path | None = None
    authority: Path | None = None
    """Whoever it has signed is believed. A server with one demands certificates of its clients."""
    server_name: str = ""
    """What the server's certificate must name; empty is the host that was dialled."""
    allows_plaintext: bool = False

    def check_listening(self, address: str) -> None:
        if self.certificate is None and not self._may_be_clear(address):
            raise InsecureAddressError(
                f"refusing to listen on {address} in clear text, which others on the network could read and change: "
                "set --tls-cert and --tls-key, or allow it by name with --plaintext"
            )

    def check_dialling(self, address: str) -> None:
        if self.authority is None and not self._may_be_clear(address):
            raise InsecureAddressError(
                f"refusing to dial {address} in clear text, which others on the network could read and change: "
                "set --tls-ca, or allow it by name with --plaintext"
            )

    def server_credentials(self, address: str) -> grpc.ServerCredentials | None:
        """None is clear text. The files are read again for each connection, so that renewed ones need no restart."""
        self.check_listening(address)
        if self.certificate is None or unix_path(address) is not None:
            return None
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(), self._renewed, require_client_authentication=self.authority is not None
        )

    def channel_files(self, address: str) -> ChannelFiles | None:
        """What a channel is opened with, as it is on disk now; None is clear text. Raises OSError."""
        self.check_dialling(address)
        if self.authority is None or unix_path(address) is not None:
            return None
        return _content(self.authority), _content(self.key), _content(self.certificate)

    def explain(self, address: str, details: str) -> str:
        """What gRPC says about a connection that failed, or what to look at where that speaks of security."""
        if unix_path(address) is not None:
            return details
        hints = _CLEAR_HINTS if self.authority is None else _TLS_HINTS
        hint = next((hint for words, hint in hints if words in details), "")
        return f"{hint} ({details})" if hint else details

    def _may_be_clear(self, address: str) -> bool:
        return self.allows_plaintext or is_local(address)

    def _server_configuration(self) -> _Configuration:
        assert self.key is not None and self.certificate is not None
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=_content(self.authority))

    def _renewed(self) -> _Configuration:
        """Called by gRPC, on a thread of its own."""
        try:
            return self._server_configuration()
        except OSError as error:
            logger.warning("cannot read the certificate again, the old one stays", extra={"reason": str(error)})
            return None  # type: ignore[return-value]  # for gRPC this means to go on with what it has


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


_TLS_HINTS = (
    ("certificate has expired", "its certificate has expired: renew it"),
    ("certificate is not yet valid", "its certificate is not valid yet: compare the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate was not signed by the authority in --tls-ca"),
    (
        "Hostname Verification",
        "its certificate has another name than was dialled: issue one that has it, or set --tls-server-name",
    ),
    ("WRONG_VERSION_NUMBER", "it answers in clear text: give it --tls-cert and --tls-key"),
    (
        "Socket closed",
        "it closed the connection: if it demands certificates, set --tls-cert to one that its --tls-ca has signed and "
        "that has not expired; its own log says which",
    ),
)
_CLEAR_HINTS = (("Socket closed", "it closed the connection: if it speaks TLS, set --tls-ca"),)
