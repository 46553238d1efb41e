"""How models come here, and whether those that are here are whole."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pagoda.cli.doctor.finding import Finding, ok, problem, warning
from pagoda.models.catalogue import CATALOGUE, DEFAULT_MODEL, find_entry
from pagoda.models.digest import DigestCache
from pagoda.models.errors import ModelError
from pagoda.models.formats.description import checkpoint_files
from pagoda.models.layout import StoreLayout
from pagoda.models.model import Model
from pagoda.models.store import ModelStore

_INDEX_TIMEOUT_S = 10


def check_index(home: Path) -> Finding:
    """Asks for the versions of the default model's package, as `pagoda pull` would; nothing is downloaded."""
    if importlib.util.find_spec("pip") is None:
        return problem("pip", "missing, so models cannot be fetched", "install it: python -m ensurepip.")
    entry = find_entry(DEFAULT_MODEL)
    assert entry is not None
    package = entry.sources[0].partition(":")[2].partition("==")[0]
    if _index_has(package):
        return ok("index", f"pip reaches its package index, which has {package} (the default model)")
    text = f"pip finds no {package} on its package index within {_INDEX_TIMEOUT_S} s"
    if _has_any_model(home):
        return warning("index", text, "only models that are already here can be served; check pip config list.")
    return problem("index", text, "check the network and pip config list, or serve a model by its path.")


def check_models(home: Path, *, deep: bool) -> list[Finding]:
    """One finding for each that is damaged, and one for the rest."""
    findings = list(_damaged(home, deep=deep))
    whole = [model for model in _readable(home) if model not in {finding.subject for finding in findings}]
    how = "read again and whole" if deep else "readable (--deep reads every byte)"
    if whole:
        return [*findings, ok("models", f"{', '.join(whole)}: {how}")]
    return findings or [ok("models", f"none yet; pagoda serve fetches {DEFAULT_MODEL}")]


def _index_has(package: str) -> bool:
    options = ["--disable-pip-version-check", "--no-input", "--retries=0", f"--timeout={_INDEX_TIMEOUT_S}"]
    command = [sys.executable, "-m", "pip", "index", "versions", *options, package]
    try:
        return subprocess.run(command, capture_output=True, timeout=2 * _INDEX_TIMEOUT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _has_any_model(home: Path) -> bool:
    return bool(StoreLayout(home).manifests())


def _readable(home: Path) -> list[str]:
    return [model.name for model in ModelStore(home).list()]


def _damaged(home: Path, *, deep: bool) -> Iterator[Finding]:
    store = ModelStore(home)
    for manifest in store.layout.manifests():
        name = store.layout.name_at(manifest.parent)
        next_step = f"remove it and fetch it again: pagoda rm {name} && pagoda pull {name}."
        try:
            model = store.read_manifest(manifest)
            if (reason := _difference(manifest, model, deep=deep)) is not None:
                yield problem(name, reason, next_step)
        except (ModelError, OSError) as error:
            yield problem(name, str(error), next_step)


def _difference(manifest: Path, model: Model, *, deep: bool) -> str | None:
    """From what the catalogue promises of the file, or else from what it was when it was first read."""
    expected = json.loads(manifest.read_text()).get("sha256") or model.digest
    entry = next((each for each in CATALOGUE if each.sha256 == expected), None)
    if entry is not None and model.size_bytes != entry.file_bytes:
        return f"{model.path.name} is {model.size_bytes} bytes long, not {entry.file_bytes}"
    if deep and (digest := _digest_afresh(model.path)) != expected:
        return f"{model.path.name} has the sha256 {digest[:12]}…, not {expected[:12]}…"
    return None


def _digest_afresh(path: Path) -> str:
    """From the disk, and not as remembered: that is the point."""
    with tempfile.TemporaryDirectory() as nothing_remembered:
        digests = DigestCache(Path(nothing_remembered) / "digests.json")
        return digests.file_digest(path) if path.is_file() else digests.files_digest(checkpoint_files(path))
