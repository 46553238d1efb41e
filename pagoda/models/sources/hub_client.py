"""Requests to the Hugging Face hub that list a repository and read its small files, and sentences for the hub's errors.

huggingface_hub reads the token. Its own requests for listings are not used: they have no time limit, sleep as long as a server
asks, and follow a listing's link to another host with the token.
"""

import hashlib
import json
import os
import re
import ssl
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from huggingface_hub import constants, get_token
from huggingface_hub.errors import OIDCError

from pagoda.distribution import VERSION
from pagoda.models.errors import ModelAccessError, ModelNotFoundError, ModelSourceError
from pagoda.models.names import HubName
from pagoda.models.sources.hub_files import HubFile
from pagoda.models.sources.settings import SourceSettings

DEFAULT_URL = "https://huggingface.co"
DEFAULT_REVISION = "main"
RETRY_DELAYS_S = (0.5, 2.0)
"""Pauses before a request for a listing is sent again after an error of the server or the connection."""
MAX_LISTING_S = 120.0
"""Longest duration of one answer with a page of a listing or a small file, in seconds."""
MAX_PAGES = 200
"""Largest number of pages of a listing. The hub's have a thousand files each."""
MAX_SMALL_BYTES = 64 << 20
"""Largest page of a listing and largest small file that is read into memory."""
MAX_FILE_BYTES = 1 << 44
"""Largest size of a file, which is that of common file systems, in bytes."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SENDABLE = re.compile(r"[\x21-\x7e]+")
_TOKENS_PAGE = "https://huggingface.co/settings/tokens"


class HubUnreachableError(ModelSourceError):
    """The hub did not answer, or its answer cannot be used. The model may be in the cache."""


class HubClient:
    """The hub, asked for one repository. Its HTTP client sends the token only to the hub's host."""

    def __init__(self, name: HubName, settings: SourceSettings) -> None:
        self._name = name
        self._is_offline = settings.is_offline
        if not _is_relative(name.revision or DEFAULT_REVISION):
            raise ModelNotFoundError(f"{name.revision!r} is not a revision; name a branch, a tag or a commit")
        self.url = _hub_url(settings)
        self._token = None if settings.is_offline else _token(settings)
        if self._token is not None and not _SENDABLE.fullmatch(self._token):
            raise ModelAccessError("the token for the hub has characters that cannot be sent; copy it again (HF_TOKEN)")
        try:
            self.http = httpx.Client(
                auth=_HubAuth(httpx.URL(self.url), self._token),
                # Compressed answers have no ranges, and could be larger than announced.
                headers={"User-Agent": f"pagoda/{VERSION}", "Accept-Encoding": "identity"},
                follow_redirects=True,
                timeout=_seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
                event_hooks={"request": [self._refuse_offline], "response": [self._refuse_errors]},
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            raise ModelSourceError(
                f"the hub cannot be asked: {error}; check HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and HF_ENDPOINT"
            ) from None

    def commit(self) -> tuple[str, str]:
        """Return the repository's spelling at the hub, and the commit of the revision."""
        revision = quote(self._name.revision or DEFAULT_REVISION, safe="")
        content = self._json(f"{self.url}/api/models/{self._name.repo}/revision/{revision}")[0]
        if not isinstance(content, dict) or not _COMMIT.fullmatch(str(content.get("sha"))):
            raise self._malformed("it has no commit")
        repo = str(content.get("id") or self._name.repo)
        if not _REPO.fullmatch(repo):
            raise self._malformed(f"the repository's name is {repo[:100]!r}")
        return repo, content["sha"]

    def list_files(self, repo: str, commit: str) -> list[HubFile]:
        url: str | None = f"{self.url}/api/models/{repo}/tree/{commit}?recursive=true"
        files: dict[str, HubFile] = {}
        seen: set[str] = set()
        while url is not None:
            if url in seen or len(seen) >= MAX_PAGES:
                raise self._malformed("its pages do not end")
            seen.add(url)
            entries, url = self._json(url)
            if not isinstance(entries, list):
                raise self._malformed("it is not a list")
            for entry in entries:
                if (file := self._file(entry)) is not None:
                    files[file.path] = file
        return list(files.values())

    def file_url(self, repo: str, commit: str, path: str) -> str:
        return f"{self.url}/{repo}/resolve/{commit}/{quote(path)}"

    def read(self, repo: str, commit: str, file: HubFile) -> bytes:
        """Return the content of a small file. Raises ModelSourceError unless it has the digest of the listing."""
        content = self._get(self.file_url(repo, commit, file.path))[0]
        if not has_digest(content, file):
            raise ModelSourceError(f"{self._shown} sent {file.path} with another content than it listed; try again")
        return content

    @property
    def _shown(self) -> str:
        return f"hf.co/{self._name.repo}"

    def _file(self, entry: object) -> HubFile | None:
        """Return a file of a listing, or None for an entry that cannot be of a model, such as a directory."""
        match entry:
            case {"type": "directory"}:
                return None
            case {"path": str(path), "lfs": {"oid": str(sha256), "size": int(size)}}:
                file = HubFile(path=path, size_bytes=size, sha256=sha256, git_oid=None)
            case {"path": str(path), "oid": str(oid), "size": int(size)}:
                file = HubFile(path=path, size_bytes=size, sha256=None, git_oid=oid)
            case _:
                raise self._malformed("a file lacks its path, size or digest")
        is_digest = _SHA256 if file.sha256 is not None else _COMMIT
        is_size = 0 <= file.size_bytes <= MAX_FILE_BYTES
        if not is_digest.fullmatch(file.etag or "") or not is_size or not _is_relative(file.path):
            raise self._malformed(f"the entry of {file.path[:100]!r} is not valid")
        return file if file.path.isprintable() else None  # no model has files with such names

    def _json(self, url: str) -> tuple[Any, str | None]:
        """Return the content of a JSON page, and the address of the next page."""
        body, response = self._get(url)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise self._malformed("it is not JSON") from None
        following = response.links.get("next", {}).get("url")
        if following is None:
            return content, None
        address = response.url.join(following)
        if _origin(address) != _origin(httpx.URL(self.url)):
            # A mirror may pass on the hub's own address, where the token must not be sent.
            return content, f"{self.url}{address.raw_path.decode()}"
        return content, str(address)

    def _get(self, url: str) -> tuple[bytes, httpx.Response]:
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                return self._get_once(url)
            except HubUnreachableError as error:
                if delay_s is None or not _is_transient(error):
                    raise
                time.sleep(delay_s)
        raise AssertionError("unreachable")

    def _get_once(self, url: str) -> tuple[bytes, httpx.Response]:
        body, deadline = bytearray(), time.monotonic() + MAX_LISTING_S
        try:
            with self.http.stream("GET", url, timeout=_seconds("HF_HUB_ETAG_TIMEOUT")) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._unusual_status(response)
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_SMALL_BYTES or time.monotonic() > deadline:
                        raise HubUnreachableError(f"the answer of the hub for {self._shown} is too large or too slow")
                return bytes(body), response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _refuse_offline(self, request: httpx.Request) -> None:
        if self._is_offline:
            raise ModelSourceError(f"{self._shown} cannot be asked: HF_HUB_OFFLINE is set")

    def _refuse_errors(self, response: httpx.Response) -> None:
        """Raise the error of a hub's response that refuses the user or does not know the repository, revision or file."""
        status = response.status_code
        if status not in (401, 403, 404, 410, 451) or _origin(response.url) != _origin(httpx.URL(self.url)):
            return
        code, text = response.headers.get("X-Error-Code", ""), response.headers.get("X-Error-Message", "")[:200]
        page = f"{self.url}/{self._name.repo}"
        if code == "GatedRepo":
            step = "with the account of your token" if self._token else "and set HF_TOKEN"
            raise ModelAccessError(f"{self._shown} is gated: accept its terms at {page} {step}{_quoted(text)}")
        if code == "RevisionNotFound":
            revision = self._name.revision or DEFAULT_REVISION
            raise ModelNotFoundError(f"{self._shown} has no revision {revision!r}; name a branch, a tag or a commit")
        if code == "EntryNotFound":
            raise ModelSourceError(
                f"{self._shown} no longer has {response.url.path.rpartition('/')[2]!r}; pull it again"
            )
        if status == 401 and self._token and code != "RepoNotFound":
            raise ModelAccessError(
                f"the hub refuses your token{_quoted(text)}; create one at {_TOKENS_PAGE} and set HF_TOKEN, or unset it"
            )
        if status in (401, 404, 410):
            step = "use the token of an account that may read it" if self._token else "set HF_TOKEN"
            raise ModelNotFoundError(f"{self._shown} does not exist, or is private: {step}")
        raise ModelAccessError(f"the hub refuses access to {self._shown}{_quoted(text)}; see {page}")

    def _unusual_status(self, response: httpx.Response) -> ModelSourceError:
        status, host = response.status_code, response.url.host
        if status == httpx.codes.TOO_MANY_REQUESTS:
            after = response.headers.get("Retry-After", "")
            when = f"in {after} seconds" if after.isdigit() else "later"
            hint = "" if self._token else ", or set HF_TOKEN for a higher limit"
            return HubUnreachableError(f"the hub limits your requests (status 429); try again {when}{hint}")
        if status >= 500:
            return _TransientError(f"the hub {host} has a failure (status {status}); try again later")
        return HubUnreachableError(f"the hub {host} sent the status {status} for {self._shown}; check HF_ENDPOINT")

    def _malformed(self, reason: str) -> ModelSourceError:
        return HubUnreachableError(
            f"the hub's listing of {self._shown} is malformed: {reason}; check HF_ENDPOINT, and your proxy"
        )

    def _unreachable(self, error: Exception) -> ModelSourceError:
        host = httpx.URL(self.url).host
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.ProxyError):
            return HubUnreachableError(
                f"the hub {host} cannot be reached through the proxy: {reason}; check HTTPS_PROXY"
            )
        if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)) or "SSL" in reason:
            return HubUnreachableError(
                f"the TLS connection to the hub {host} failed: {reason}; "
                "if a proxy of your network signs it, set SSL_CERT_FILE to the file of its certificate"
            )
        if isinstance(error, httpx.TimeoutException):
            return HubUnreachableError(f"the hub {host} did not answer in time; check your network, and try again")
        kind = (
            _TransientError if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) else HubUnreachableError
        )
        return kind(f"the hub {host} cannot be reached: {reason}; check your network, and HF_ENDPOINT")


class _TransientError(HubUnreachableError):
    """A failure that may be over after a moment."""


class _HubAuth(httpx.Auth):
    """The hub's token, in requests to the hub's host only."""

    def __init__(self, hub: httpx.URL, token: str | None) -> None:
        self._origin = _origin(hub)
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token and _origin(request.url) == self._origin:
            # A redirect to another host loses this header.
            request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def has_digest(content: bytes, file: HubFile) -> bool:
    if file.sha256 is not None:
        return hashlib.sha256(content).hexdigest() == file.sha256
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.git_oid


def _hub_url(settings: SourceSettings) -> str:
    url = (settings.hub_url or os.environ.get("HF_ENDPOINT") or DEFAULT_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ModelSourceError(f"HF_ENDPOINT must be an http or https address (got {url[:100]!r})")
    return url


def _token(settings: SourceSettings) -> str | None:
    """Return the token of the settings, of HF_TOKEN, or of the file that `hf auth login` writes."""
    if settings.hub_token is not None:
        return settings.hub_token or None
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    own_file = os.environ.get("HF_TOKEN_PATH") if not os.environ.get("HF_TOKEN") else None
    try:
        if own_file and Path(own_file).expanduser() != Path(constants.HF_TOKEN_PATH):
            # The library reads the variable only when it is imported.
            return Path(own_file).expanduser().read_text().strip() or None
        return get_token()
    except (OSError, ValueError, OIDCError) as error:
        raise ModelAccessError(
            f"the token for the hub cannot be read: {error}; check HF_TOKEN and HF_TOKEN_PATH"
        ) from None


def _seconds(variable: str) -> float:
    value = os.environ.get(variable, "")
    return float(value) if value.isdigit() and int(value) else 10.0


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_relative(path: str) -> bool:
    return "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _is_transient(error: HubUnreachableError) -> bool:
    return isinstance(error, _TransientError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _quoted(text: str) -> str:
    return f" ({text})" if text else ""
