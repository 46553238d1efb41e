"""The set-up: PAGODA_HOME, its sockets, and the ports that clients expect a server at."""

import errno
import os
import socket
import tempfile
from pathlib import Path

from pagoda.cli.doctor.finding import Finding, ok, problem, warning
from pagoda.cli.doctor.machine import existing_parent
from pagoda.cli.failure import CommandError
from pagoda.cli.ollama_api import OllamaAPI
from pagoda.rpc.sockets import MAX_SOCKET_PATH_BYTES, socket_directory

PORTS = {8000: "pagoda serve", 11434: "clients made for Ollama"}
_NEXT_STEPS = {
    8000: "stop it, or serve on another: pagoda serve --port PORT.",
    11434: "stop it, or tell clients made for Ollama the address http://127.0.0.1:8000.",
}


def check_home(home: Path) -> Finding:
    place = existing_parent(home)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        text = f"{home} cannot be written ({error.strerror})"
        return problem("home", text, "set PAGODA_HOME to a directory that you may write to.")
    return ok("home", f"{home} is writable" if place == home else f"{home} will be made when it is first needed")


def check_sockets(home: Path, instance: str = "8000") -> Finding:
    path = socket_directory(home, instance) / "scheduler.sock"
    if home in path.parents:
        return ok("sockets", f"{path} is {len(os.fsencode(path))} of at most {MAX_SOCKET_PATH_BYTES} bytes long")
    if not os.access(path.parent.parent, os.W_OK):
        text = f"PAGODA_HOME is too long for sockets, and {path.parent.parent} cannot be written"
        return problem("sockets", text, "set PAGODA_HOME to a shorter path.")
    return ok("sockets", f"under {path.parent}, since the path of PAGODA_HOME is too long for them")


def check_port(port: int, api_key: str | None) -> Finding:
    subject, whom = f"port {port}", PORTS.get(port, "a server")
    next_step = _NEXT_STEPS.get(port, "choose another.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return warning(subject, f"cannot be used ({error.strerror})", next_step)
        else:
            return ok(subject, f"free for {whom}")
    who = _who_answers(port, api_key)
    if who is None:
        return warning(subject, "taken by some other program", next_step)
    return ok(subject, f"taken: {who} answers there")


def _who_answers(port: int, api_key: str | None) -> str | None:
    """Something that speaks Ollama's API, and what it holds."""
    with OllamaAPI(f"http://127.0.0.1:{port}", api_key, timeout_s=2.0) as api:
        try:
            version = api.version()
            models = ", ".join(str(model["name"]) for model in api.running()) or "no model"
        except CommandError as error:
            return "a server that wants a key" if "key" in str(error) else None
        return f"{'Pagoda' if api.is_pagoda() else 'Ollama'} {version} with {models} loaded"
