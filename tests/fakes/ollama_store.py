"""A store as an Ollama installation leaves it on disk: manifests, blobs, and the remains of interrupted pulls.

manifests/<host>/<namespace>/<model>/<tag>    the registry's bytes, or Go's encoding for a model that was created here
blobs/sha256-<hex>                            layers and config; Ollama before 0.1.33 wrote sha256:<hex>
blobs/sha256-<hex>-partial, -partial-<n>      a download in parts: a sparse file, and the state of each part as JSON
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IMAGE = "application/vnd.ollama.image."
CONFIG = {
    "model_format": "gguf",
    "model_family": "llama",
    "model_families": ["llama"],
    "model_type": "107.20K",
    "file_type": "F32",
}

TreeState = Mapping[str, tuple[int, ...]]


class FakeOllamaStore:
    """Writes a store below a directory, as Ollama does."""

    def __init__(self, directory: Path, *, separator: str = "-") -> None:
        """Take the directory of OLLAMA_MODELS. With the separator `:`, blobs are named as Ollama did before version 0.1.33."""
        self.directory = directory
        self.blobs = directory / "blobs"
        self.blobs.mkdir(parents=True)
        self._separator = separator

    def add(
        self,
        name: str,
        weights: Path | None,
        *,
        texts: Mapping[str, str | bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        messages: Sequence[Mapping[str, str]] = (),
        licenses: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        created_from: str = "",
    ) -> Path:
        """Add a model and return its manifest. `texts` are further layers by their kind, such as "system" or "template".

        The file of the weights is linked, not copied. `created_from` makes the manifest one of `ollama create`.
        """
        layers = []
        if weights is not None:
            layers.append(self._layer("model", self.link_blob(weights), weights.stat().st_size))
        if created_from:
            layers[0]["from"] = created_from
        contents = [(kind, text) for kind, text in (texts or {}).items()]
        contents += [("license", text) for text in licenses]
        contents += [("params", go_json(params))] if params is not None else []
        contents += [("messages", go_json(messages))] if messages else []
        for kind, content in contents:
            data = content.encode() if isinstance(content, str) else content
            layers.append(self._layer(kind, self.add_blob(data), len(data)))
        config_data = json.dumps(CONFIG | dict(config or {}), separators=(",", ":")).encode()
        described = {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": self.add_blob(config_data),
            "size": len(config_data),
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": described,
            "layers": layers,
        }
        data = json.dumps(manifest, separators=(",", ":")).encode()
        return self.write_manifest(name, data + b"\n" * bool(created_from))  # Go's encoder ends the line

    def manifest(self, name: str) -> Path:
        """Return the path of a model's manifest, for any of the forms in which Ollama prints names."""
        name, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
        parts = name.split("/")
        defaults = ["registry.ollama.ai", "library"]
        return Path(self.directory, "manifests", *defaults[: 3 - len(parts)], *parts, tag)

    def write_manifest(self, name: str, data: bytes) -> Path:
        """Write a manifest in place, as Ollama does."""
        path = self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def add_blob(self, content: bytes) -> str:
        """Add a blob as Ollama does: complete or not at all. Return its digest."""
        digest = hashlib.sha256(content).hexdigest()
        if not self.blob(digest).exists():
            partial = self.blobs / f"{self.blob(digest).name}-partial"
            partial.write_bytes(content)
            partial.rename(self.blob(digest))
        return f"sha256:{digest}"

    def link_blob(self, file: Path) -> str:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if not self.blob(digest).exists():
            os.link(file, self.blob(digest))
        return f"sha256:{digest}"

    def blob(self, digest: str) -> Path:
        return self.blobs / f"sha256{self._separator}{digest.removeprefix('sha256:')}"

    def add_interrupted_pull(self) -> None:
        """Add what a killed `ollama pull` leaves: a sparse file and the states of its parts, without a manifest."""
        partial = f"sha256{self._separator}{'ab' * 32}-partial"
        with (self.blobs / partial).open("wb") as file:
            file.write(b"GGUF")
            file.truncate(1 << 20)
        for number, (completed, size) in enumerate(((1 << 19, 1 << 19), (4, 1 << 19))):
            part = {"N": number, "Offset": number << 19, "Size": size, "Completed": completed}
            (self.blobs / f"{partial}-{number}").write_bytes(go_json(part))

    def _layer(self, kind: str, digest: str, size: int) -> dict[str, Any]:
        return {"mediaType": IMAGE + kind, "digest": digest, "size": size}


def go_json(value: Any) -> bytes:
    """Return the value as Go's json.Encoder writes it: compact, and with a line end."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def tree_state(directory: Path) -> TreeState:
    """Return everything about a directory that a change would show, by path: all but the time of the last access."""
    paths = [
        directory,
        *(Path(folder, name) for folder, folders, files in os.walk(directory) for name in (*folders, *files)),
    ]
    states = {str(path.relative_to(directory)): path.lstat() for path in paths}
    return {
        path: (
            each.st_ino,
            each.st_mode,
            each.st_nlink,
            each.st_uid,
            each.st_gid,
            each.st_size,
            each.st_mtime_ns,
            each.st_ctime_ns,
        )
        for path, each in states.items()
    }
