"""Checks of the setup: Python, the packages that the tiers need, PAGODA_HOME, its sockets, and the default ports.

Nothing heavy is imported: versions are read from the packages' metadata.
"""

import errno
import importlib.metadata
import importlib.util
import os
import platform
import socket
import sys
import tempfile
from pathlib import Path

from pagoda.cli.doctor.finding import Finding, ok, problem, warning
from pagoda.cli.doctor.machine import existing_parent
from pagoda.cli.failure import CommandError
from pagoda.cli.ollama_api import OllamaAPI
from pagoda.cli.tier_programs import missing_packages
from pagoda.distribution import VERSION, install_command
from pagoda.rpc.sockets import MAX_SOCKET_PATH_BYTES, socket_directory

_OLDEST_PYTHON = (3, 11)
PORTS = {8000: "pagoda serve", 11434: "Ollama clients"}
_NEXT_STEPS = {
    8000: "stop it, or use another port: pagoda serve --port PORT.",
    11434: "stop it, or configure Ollama clients with http://127.0.0.1:8000.",
}


def check_versions() -> Finding:
    text = f"pagoda {VERSION}, grpcio {_version('grpcio')}, {platform.platform(terse=True)}"
    return ok("versions", text)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    text = f"{'.'.join(map(str, version))} at {sys.executable}"
    if version < _OLDEST_PYTHON:
        return problem("python", text, "install Python 3.11 or newer.")
    return ok("python", text)


def check_gateway_packages() -> Finding:
    if missing := missing_packages("gateway"):
        return problem("gateway", f"{', '.join(missing)} missing", _install("gateway"))
    return ok("gateway", f"fastapi {_version('fastapi')}, tokenizers {_version('tokenizers')}")


def check_torch() -> Finding:
    build = torch_build()
    if build is None:
        return problem("torch", "not installed, so no worker can run here", _install("worker"))
    if importlib.util.find_spec("numpy") is None:
        return problem("torch", "installed, but numpy is missing", _install("worker"))
    return ok("torch", f"{_version('torch')}, built for {build}")


def torch_build() -> str | None:
    """Return "CUDA 12.8", "ROCm 6.4" or "CPUs", or None if torch is missing. Runs torch's version file, which is a few
    assignments, because importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    values: dict[str, object] = {}
    try:
        version_file = Path(spec.submodule_search_locations[0]) / "version.py"
        exec(compile(version_file.read_text(), str(version_file), "exec"), values)
    except Exception:  # An unusual or incomplete build: the worker's own error will say more.
        return "an unknown device"
    if values.get("cuda"):
        return f"CUDA {values['cuda']}"
    return f"ROCm {values['hip']}" if values.get("hip") else "CPUs"


def _install(extra: str) -> str:
    return f"install it: {install_command(extra)} (in a clone: make setup)."


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def check_home(home: Path) -> Finding:
    place = existing_parent(home)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        text = f"{home} is not writable ({error.strerror})"
        return problem("home", text, "set PAGODA_HOME to a writable directory.")
    return ok("home", f"{home} is writable" if place == home else f"{home} will be created when it is first needed")


def check_sockets(home: Path, instance: str = "8000") -> Finding:
    path = socket_directory(home, instance) / "scheduler.sock"
    if home in path.parents:
        return ok("sockets", f"{path} has {len(os.fsencode(path))} bytes (limit: {MAX_SOCKET_PATH_BYTES})")
    if not os.access(path.parent.parent, os.W_OK):
        text = f"the path of PAGODA_HOME is too long for sockets, and {path.parent.parent} is not writable"
        return problem("sockets", text, "set PAGODA_HOME to a shorter path.")
    return ok("sockets", f"in {path.parent}, because the path of PAGODA_HOME is too long for them")


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
        return warning(subject, "used by another program", next_step)
    return ok(subject, f"in use by {who}")


def _who_answers(port: int, api_key: str | None) -> str | None:
    """Return which server with Ollama's API answers at the port, and its loaded models. None if no such server answers."""
    with OllamaAPI(f"http://127.0.0.1:{port}", api_key, timeout_s=2.0) as api:
        try:
            version = api.version()
            models = ", ".join(str(model["name"]) for model in api.running()) or "no model"
        except CommandError as error:
            return "a server that requires an API key" if "key" in str(error) else None
        return f"{'Pagoda' if api.is_pagoda() else 'Ollama'} {version} with {models} loaded"
