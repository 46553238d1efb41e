"""The sockets that the gateway listens on: its own address, and Ollama's default port if that is free."""

import contextlib
import logging
import socket

OLLAMA_HOST = "127.0.0.1"

logger = logging.getLogger(__name__)


class ListenError(Exception):
    """The server cannot listen on the address. The message says what to do next."""


def open_sockets(host: str, port: int, ollama_port: int) -> list[socket.socket]:
    """Open the server's sockets. `ollama_port` is left out if it is 0, or taken, perhaps by Ollama itself."""
    sockets = _own_sockets(host, port)
    taken = {listening.getsockname()[1] for listening in sockets}
    if ollama_port and ollama_port not in taken:
        sockets += _ollama_socket(ollama_port)
    return sockets


def address_of(listening: socket.socket) -> str:
    """Return the URL of a server that listens on the socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _own_sockets(host: str, port: int) -> list[socket.socket]:
    """Open a socket for each address of the host, all on the same port."""
    with contextlib.ExitStack() as opened:
        try:
            found = dict.fromkeys(
                (family, str(address[0]))
                for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            sockets: list[socket.socket] = []
            for family, address in found:
                chosen = sockets[0].getsockname()[1] if sockets else port
                sockets.append(opened.enter_context(socket.create_server((address, chosen), family=family)))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ListenError(f"cannot listen on {host} port {port}: {reason}. Choose another with --port.") from None
        opened.pop_all()
        return sockets


def _ollama_socket(port: int) -> list[socket.socket]:
    try:
        return [socket.create_server((OLLAMA_HOST, port))]
    except OSError as error:
        logger.info(
            "port for Ollama's clients unavailable", extra={"port": port, "reason": error.strerror or str(error)}
        )
        return []
