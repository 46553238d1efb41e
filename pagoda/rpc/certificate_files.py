"""Whether the files named by --tls-cert, --tls-key and --tls-ca are what they should be, told before anybody connects."""

from pathlib import Path


def check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def check_authority(path: Path) -> None:
    import ssl  # only here: most processes have no certificates

    check_readable(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(f"{path} has no certificate in PEM form") from None


def check_pair(certificate: Path, key: Path) -> None:
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
