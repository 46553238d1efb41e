"""What protects gRPC between the tiers: certificates and tokens in files, and the places where clear text may be spoken.

Makes credentials for channels and servers, and says in a sentence why a connection failed. Who may do what is decided behind the
server's door (scheduler/rpc/door.py). A unix socket needs no TLS: the socket is its user's alone (sockets.py).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from pagoda.rpc.cluster_tokens import ClusterTokens, Role
from pagoda.rpc.sockets import is_local, refuse_foreign_directory, unix_path

logger = logging.getLogger(__name__)

_Configuration = grpc.ServerCertificateConfiguration
Metadata = tuple[tuple[str, str], ...]
ChannelFiles = tuple[bytes | None, bytes | None, bytes | None]
"""The authority, the key and the certificate."""


class InsecureAddressError(ValueError):
    """Clear text would leave this machine, and nobody has allowed that; or the door would stand open to the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSecurity:
    """As the settings have it, whose files were read once: what fails later has changed on disk."""

    certificate: Path | None = None
    """What this process shows: a server always, a client when it is asked."""
    key: Path | None = None
    authority: Path | None = None
    """Its certificates are believed. A server with one demands certificates of its clients."""
    server_name: str = ""
    """What the server's certificate must name; empty is the host that was dialled."""
    allows_plaintext: bool = False
    tokens: ClusterTokens | None = None
    """A server's: which it believes. A client's: what it shows."""
    home_tokens: ClusterTokens | None = None
    """What a client shows within this machine where it has no `tokens`: no other machine is told those."""
    role: Role | None = None
    """A client's."""

    def check_listening(self, address: str) -> None:
        """Raises InsecureAddressError."""
        if self.certificate is None and not self._may_be_clear(address):
            raise InsecureAddressError(
                f"refusing to listen on {address} in clear text, which others on the network could read and change: "
                "set --tls-cert and --tls-key, or allow it by name with --plaintext"
            )
        if self.authority is None and self.tokens is None and not is_local(address):
            raise InsecureAddressError(
                f"refusing to listen on {address} without a cluster token, since everybody who reaches it could attach as a "
                "worker and read prompts: make tokens with pagoda cluster-token and name their files with --cluster-token-file, "
                "or demand certificates with --tls-ca"
            )

    def check_dialling(self, address: str) -> None:
        """Raises InsecureAddressError, and ForeignDirectoryError for a socket that another user could have put there."""
        if (path := unix_path(address)) is not None:
            refuse_foreign_directory(path.parent)
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

    def call_metadata(self, address: str) -> Metadata:
        """Return what each call at that address carries: the token of this role, as its file has it now."""
        source = self.tokens or (self.home_tokens if is_local(address) else None)
        token = source.token_of(self.role) if source is not None and self.role is not None else None
        return (("authorization", f"Bearer {token}"),) if token else ()

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


def check_readable(path: Path) -> None:
    """Raise ValueError if the file cannot be read."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def check_authority(path: Path) -> None:
    """Raise ValueError if the file is not what --tls-ca takes."""
    import ssl  # only here: most processes have no certificates

    check_readable(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(f"{path} has no certificate in PEM form") from None


def check_pair(certificate: Path, key: Path) -> None:
    """Raise ValueError if the files are not what --tls-cert and --tls-key take."""
    import ssl

    try:
        # With a passphrase, if only an empty one: without, OpenSSL would ask the terminal for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"--tls-key: {key} is not the key of {certificate} (--tls-cert)") from None
        raise ValueError(
            f"--tls-cert and --tls-key: {certificate} must be a certificate and {key} its key without a passphrase, both in "
            f"PEM form ({error.reason or error})"
        ) from None
