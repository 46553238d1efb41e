"""The interpreter and the packages that the tiers need. Nothing heavy is imported: what is installed is read from its metadata."""

import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path

from pagoda.cli.doctor.finding import Finding, ok, problem

_OLDEST = (3, 11)
# What a tier cannot start without, and the extra that brings it.
_GATEWAY_PACKAGES = ("fastapi", "uvicorn", "orjson", "tokenizers", "jinja2", "prometheus_client")
_INSTALL = "install it: python -m pip install 'pagoda[{extra}]' (in a clone: make setup)"


def check_versions() -> Finding:
    text = f"pagoda {_version('pagoda')}, grpcio {_version('grpcio')}, {platform.platform(terse=True)}"
    return ok("versions", text)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    text = f"{'.'.join(map(str, version))} at {sys.executable}"
    if version < _OLDEST:
        return problem("python", text, "install Python 3.11 or newer.")
    return ok("python", text)


def check_gateway_packages() -> Finding:
    missing = [name for name in _GATEWAY_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return problem("gateway", f"{', '.join(missing)} missing", _INSTALL.format(extra="gateway") + ".")
    return ok("gateway", f"fastapi {_version('fastapi')}, tokenizers {_version('tokenizers')}")


def check_torch() -> Finding:
    build = torch_build()
    if build is None:
        return problem("torch", "not installed, so no worker can run here", _INSTALL.format(extra="worker") + ".")
    if importlib.util.find_spec("numpy") is None:
        return problem("torch", "numpy is missing beside it", _INSTALL.format(extra="worker") + ".")
    return ok("torch", f"{_version('torch')}, built for {build}")


def torch_build() -> str | None:
    """ "CUDA 12.8", "ROCm 6.4" or "CPUs"; None where torch is missing. Importing torch takes seconds, and its version file
    is a few assignments."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    values: dict[str, object] = {}
    try:
        version_file = Path(spec.submodule_search_locations[0]) / "version.py"
        exec(compile(version_file.read_text(), str(version_file), "exec"), values)
    except Exception:  # A build of some other kind, or the rest of one: the worker's own start says more.
        return "an unknown device"
    if values.get("cuda"):
        return f"CUDA {values['cuda']}"
    return f"ROCm {values['hip']}" if values.get("hip") else "CPUs"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
