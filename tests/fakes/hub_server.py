"""A Hugging Face hub on this machine: listings, redirects to the storage host, gated and private repositories, and faults.

It serves huggingface_hub unmodified (with HF_ENDPOINT, and HF_HUB_DISABLE_XET=1). Large files come from a second server under
another host name, as at the real hub.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

LFS_SUFFIXES = (".gguf", ".safetensors", ".bin", "tokenizer.json")
PAGE_ENTRIES = 3


@dataclass(kw_only=True)
class Repo:
    """A repository with all its commits."""

    id: str
    revisions: dict[str, str] = field(default_factory=dict)
    """Commits by the names of branches and tags."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    is_private: bool = False
    is_gated: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request that a server has received."""

    method: str
    host: str
    path: str
    token: str | None
    range: str | None


Fault = Callable[["Exchange"], bool]
"""Function that may answer a request in place of the server. It returns True if it has."""


class FakeHub:
    """The content and the faults of a hub. Tests change it while it runs."""

    def __init__(self) -> None:
        self.url = ""
        self.storage_url = ""
        self.page_url = ""
        """Beginning of the address of a listing's next page, if it is not `url`."""
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        """Present names by earlier ones."""
        self.tokens: dict[str, set[str]] = {}
        """Names of the gated and private repositories that a token may read."""
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.without_sha256: set[str] = set()
        """Paths that are listed without their SHA-256."""
        self.cut_after: list[int] = []
        """Bytes after which the next answers of the storage end, one number for each answer."""
        self.stall_after: list[int | None] = []
        """Bytes after which the next answers of the storage wait for `resume`, one entry for each answer."""
        self.stalled, self.resume = threading.Event(), threading.Event()
        self.replaced: dict[str, bytes] = {}
        """Contents that the storage sends in place of the true ones, by SHA-256."""

    def add(self, repo: str, files: Mapping[str, bytes], *, is_private: bool = False, is_gated: bool = False) -> str:
        """Add a repository and return its commit."""
        self.repos[repo] = Repo(id=repo, is_private=is_private, is_gated=is_gated)
        return self.commit(repo, files)

    def commit(self, repo: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Move a branch to a commit with these files, and return the commit."""
        contents = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        commit = hashlib.sha1(json.dumps([repo, contents], sort_keys=True).encode()).hexdigest()
        self.repos[repo].commits[commit] = dict(files)
        self.repos[repo].revisions[revision] = commit
        return commit

    def paths(self, *, method: str | None = None, host: str | None = None) -> list[str]:
        """Return the paths that were requested."""
        return [
            seen.path
            for seen in self.seen
            if method in (None, seen.method) and (host is None or seen.host.startswith(host))
        ]

    def find(self, name: str) -> Repo | None:
        return next((repo for repo in self.repos.values() if repo.id.lower() == name.lower()), None)

    def content(self, sha256: str) -> bytes | None:
        """Return the content of a large file."""
        for repo in self.repos.values():
            for files in repo.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == sha256:
                        return self.replaced.get(sha256, content)
        return None


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer. Underscores in the names of headers stand for hyphens."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, content: object, **headers: str) -> None:
        self.send(200, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def refuse(self, status: int, code: str, message: str = "") -> None:
        headers = {"X_Error_Code": code} if code else {}
        self.send(status, json.dumps({"error": message}).encode(), X_Error_Message=message or code, **headers)

    def _serve(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host = self.headers.get("Host", "")
        self.hub.seen.append(
            Seen(method=self.command, host=host, path=self.path, token=token, range=self.headers.get("Range"))
        )
        if any(fault(self) for fault in self.hub.faults):
            return
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            self._send_stored(match[1])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/(.+))?)?", path):
            self._serve_listing(match[1], match[2], match[3], token)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._serve_file(match[1], match[2], match[3], token)
        else:
            self.refuse(404, "")

    def _repo(self, name: str, token: str | None) -> Repo | None:
        """Return the repository, or None after an answer that refuses or redirects."""
        if token is not None and token not in self.hub.tokens:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        repo = self.hub.find(self.hub.renamed.get(name, name))
        if repo is None or (repo.is_private and repo.id not in self.hub.tokens.get(token or "", ())):
            # The hub does not tell anonymous users which names exist.
            self.refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
            return None
        if repo.id != name:
            self.send(307, Location=self.path.replace(name, repo.id))
            return None
        return repo

    def _serve_listing(self, name: str, kind: str | None, revision: str | None, token: str | None) -> None:
        if (repo := self._repo(name, token)) is None:
            return
        if kind == "refs":
            branches = [{"name": name, "targetCommit": commit} for name, commit in repo.revisions.items()]
            self.send_json({"branches": branches, "tags": []})
            return
        commit = self._commit(repo, revision or "main")
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif kind == "tree":
            self._send_tree(repo, commit)
        else:
            siblings = [{"rfilename": path} for path in repo.commits[commit]]
            self.send_json({"id": repo.id, "modelId": repo.id, "sha": commit, "siblings": siblings})

    def _send_tree(self, repo: Repo, commit: str) -> None:
        files = sorted(repo.commits[commit].items())
        folders = sorted({path.rpartition("/")[0] for path, _ in files} - {""})
        entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
        entries += [self._entry(path, content) for path, content in files]
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        end = start + PAGE_ENTRIES
        address = f"{self.hub.page_url or self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={end}"
        headers = {"Link": f'<{address}>; rel="next"'} if end < len(entries) else {}
        self.send_json(entries[start:end], **headers)

    def _entry(self, path: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path.endswith(LFS_SUFFIXES) and path not in self.hub.without_sha256:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return entry

    def _serve_file(self, name: str, revision: str, path: str, token: str | None) -> None:
        if (repo := self._repo(name, token)) is None:
            return
        if repo.is_gated and repo.id not in self.hub.tokens.get(token or "", ()):
            self.refuse(401 if token is None else 403, "GatedRepo", f"Access to model {repo.id} is restricted.")
            return
        commit = self._commit(repo, revision)
        content = repo.commits[commit].get(path) if commit is not None else None
        if commit is None or content is None:
            self.refuse(404, "RevisionNotFound" if commit is None else "EntryNotFound")
        elif path.endswith(LFS_SUFFIXES):
            sha256 = hashlib.sha256(content).hexdigest()
            self.send(
                302,
                Location=f"{self.hub.storage_url}/storage/{sha256}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{sha256}"',
                X_Linked_Size=str(len(content)),
                ETag='"pointer"',
            )
        else:
            self._send_content(content, X_Repo_Commit=commit, ETag=f'"{git_oid(content)}"')

    def _send_stored(self, sha256: str) -> None:
        content = self.hub.content(sha256)
        if content is None:
            self.refuse(404, "")
            return
        hub, is_get = self.hub, self.command == "GET"
        cut = hub.cut_after.pop(0) if hub.cut_after and is_get else None
        stall = hub.stall_after.pop(0) if hub.stall_after and is_get else None
        self._send_content(content, cut, stall, ETag=f'"{sha256}"')

    def _send_content(self, content: bytes, cut: int | None = None, stall: int | None = None, **headers: str) -> None:
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), int(match[2] or len(content) - 1)
            if start >= len(content):
                self.send(416, Content_Range=f"bytes */{len(content)}")
                return
            headers["Content_Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            status, content = 206, content[start : end + 1]
        if self.command == "HEAD" or (cut is None and stall is None):
            self.send(status, content, Accept_Ranges="bytes", **headers)
            return
        self.close_connection = True
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), "Accept_Ranges": "bytes", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        first = cut if cut is not None else stall
        self.wfile.write(content[:first])
        self.wfile.flush()
        if cut is None:
            self.hub.stalled.set()
            self.hub.resume.wait()
            self.wfile.write(content[first:])

    def _commit(self, repo: Repo, revision: str) -> str | None:
        return revision if revision in repo.commits else repo.revisions.get(revision)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing when a client breaks its connection."""


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub_of_environment(patch: pytest.MonkeyPatch, directory: Path) -> Iterator[FakeHub]:
    """Run a hub that this process and those that it starts use, with an empty cache in the directory."""
    with running_hub() as hub:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_CACHE", str(directory / "hub"))
        yield hub


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Run a hub and its storage while the block runs."""
    hub = FakeHub()
    handler = type("BoundExchange", (Exchange,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as api, _Server(("127.0.0.1", 0), handler) as storage:
        threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in (api, storage)]
        hub.url = f"http://127.0.0.1:{api.server_port}"
        hub.storage_url = f"http://localhost:{storage.server_port}"
        for thread in threads:
            thread.start()
        try:
            yield hub
        finally:
            hub.resume.set()
            for server in (api, storage):
                server.shutdown()
            for thread in threads:
                thread.join()
