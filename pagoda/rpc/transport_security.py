"""Security of gRPC between the tiers: certificates, tokens, and the addresses where clear text is allowed.

Makes credentials for channels and servers, and explains why a connection failed. scheduler/rpc/door.py decides which caller may do
what. A unix socket needs no TLS, because only its user can access it (sockets.py).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from pagoda.rpc.cluster_tokens import ClusterTokens, Role
from pagoda.rpc.sockets import check_address, is_local, refuse_foreign_directory, unix_path

logger = logging.getLogger(__name__)

_Configuration = grpc.ServerCertificateConfiguration
Metadata = tuple[tuple[str, str], ...]
ChannelFiles = tuple[bytes | None, bytes | None, bytes | None]
"""Contents of the files of authority, key and certificate."""


class InsecureAddressError(ValueError):
    """Clear text would leave this machine without permission, or a server would accept anyone on the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSecurity:
    """Security settings of a server or client. Their files were read at the start: if one fails later, it has changed on disk."""

    certificate: Path | None = None
    """PEM file of this process's certificate. A client presents it if the server requests one."""
    key: Path | None = None
    authority: Path | None = None
    """PEM file of the trusted authority. A server with an authority requires certificates of its clients."""
    server_name: str = ""
    """Name that the server's certificate must have. Empty for the host of the address."""
    allows_plaintext: bool = False
    tokens: ClusterTokens | None = None
    """Tokens that a server accepts, or that a client sends."""
    home_tokens: ClusterTokens | None = None
    """Tokens that a client without `tokens` sends, but only within this machine."""
    role: Role | None = None
    """Role of a client."""

    def check_listening(self, address: str) -> None:
        """Raise InsecureAddressError if a server must not listen on the address, ValueError if it is malformed."""
        check_address(address)
        if self.certificate is None and not self._may_be_clear(address):
            raise InsecureAddressError(
                f"refusing to listen on {address} in clear text, which others on the network could read and change; "
                "set --tls-cert and --tls-key, or allow it with --plaintext"
            )
        if self.authority is None and self.tokens is None and not is_local(address):
            raise InsecureAddressError(
                f"refusing to listen on {address} without cluster tokens, because anyone on the network could attach as a "
                "worker and read prompts; make tokens with `pagoda cluster-token` and set --cluster-token-file, or require "
                "certificates with --tls-ca"
            )

    def check_dialling(self, address: str) -> None:
        """Raise InsecureAddressError if a client must not connect in clear text, ForeignDirectoryError for a foreign socket,
        ValueError for a malformed address."""
        check_address(address)
        if (path := unix_path(address)) is not None:
            refuse_foreign_directory(path.parent)
        if self.authority is None and not self._may_be_clear(address):
            raise InsecureAddressError(
                f"refusing to connect to {address} in clear text, which others on the network could read and change; "
                "set --tls-ca, or allow it with --plaintext"
            )

    def server_credentials(self, address: str) -> grpc.ServerCredentials | None:
        """Return credentials, or None for clear text. Files are read again for each connection: renewed ones need no restart."""
        self.check_listening(address)
        if self.certificate is None or unix_path(address) is not None:
            return None
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(), self._renewed, require_client_authentication=self.authority is not None
        )

    def channel_files(self, address: str) -> ChannelFiles | None:
        """Return the current contents of the files for a channel, or None for clear text. Raises OSError."""
        self.check_dialling(address)
        if self.authority is None or unix_path(address) is not None:
            return None
        return _content(self.authority), _content(self.key), _content(self.certificate)

    def call_metadata(self, address: str) -> Metadata:
        """Return the metadata of each call to the address: the current token of this role, if there is one."""
        source = self.tokens or (self.home_tokens if is_local(address) else None)
        token = source.token_of(self.role) if source is not None and self.role is not None else None
        return (("authorization", f"Bearer {token}"),) if token else ()

    def explain(self, address: str, details: str) -> str:
        """Return gRPC's message about a failed connection, with advice before it if the cause is a security setting."""
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
        """Return the configuration for a new connection. gRPC calls this on one of its threads."""
        try:
            return self._server_configuration()
        except OSError as error:
            logger.warning("certificate not readable; the old one stays in use", extra={"reason": str(error)})
            return None  # type: ignore[return-value]  # gRPC then keeps the old configuration


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


_TLS_HINTS = (
    ("certificate has expired", "the server's certificate has expired; renew it"),
    ("certificate is not yet valid", "the server's certificate is not valid yet; compare the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate was not signed by the authority in --tls-ca"),
    (
        "Hostname Verification",
        "the server's certificate does not have the host's name; issue one that does, or set --tls-server-name",
    ),
    ("WRONG_VERSION_NUMBER", "the server does not use TLS; set its --tls-cert and --tls-key"),
    (
        "Socket closed",
        "the server closed the connection; if it requires certificates, set --tls-cert to a valid one that is signed by its "
        "--tls-ca; its log has the reason",
    ),
)
_CLEAR_HINTS = (("Socket closed", "the server closed the connection; if it uses TLS, set --tls-ca"),)


def check_readable(path: Path) -> None:
    """Raise ValueError if the file cannot be read."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def check_authority(path: Path) -> None:
    """Raise ValueError if the file is unusable for --tls-ca."""
    import ssl  # imported only here, because most processes have no certificates

    check_readable(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(f"{path} has no certificate in PEM format") from None


def check_pair(certificate: Path, key: Path) -> None:
    """Raise ValueError if the files are unusable for --tls-cert and --tls-key."""
    import ssl

    try:
        # The empty passphrase keeps OpenSSL from asking on the terminal for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"--tls-key: {key} is not the key of {certificate} (--tls-cert)") from None
        raise ValueError(
            f"--tls-cert and --tls-key: {certificate} must be a certificate and {key} its key without a passphrase, both in "
            f"PEM format ({error.reason or error})"
        ) from None
