"""A client of the Hugging Face hub, which lists a repository and reads its small files, and sentences for the hub's errors.

huggingface_hub reads the token, builds the requests for listings and reads the answers. This client sends the requests, with time
limits, few retries, and the token for the hub only.
"""

import json
import re
import ssl
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import httpx
import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HFValidationError, OIDCError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from pagoda.distribution import VERSION
from pagoda.models.errors import ModelAccessError, ModelNotFoundError, ModelSourceError, UnknownRepositoryError
from pagoda.models.names import HubName
from pagoda.models.sources.file_request import is_same_origin
from pagoda.models.sources.hub_files import GIT_OID, SHA256
from pagoda.models.sources.hub_session import answering
from pagoda.models.sources.interruption import limited_stream
from pagoda.models.sources.remote import RemoteFile
from pagoda.models.sources.settings import SourceSettings

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
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                event_hooks={"request": [self._refuse_offline], "response": [self._refuse_errors]},
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            raise ModelSourceError(
                f"the hub cannot be asked: {error}; check HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and HF_ENDPOINT"
            ) from None

    def commit(self) -> tuple[str, str]:
        """Return the repository's spelling at the hub, and the commit of the revision."""
        try:
            validate_repo_id(self._name.repo)
        except HFValidationError as error:
            raise UnknownRepositoryError(f"{self._shown} does not exist: {error}") from None
        with self._library("it has no commit") as library:
            info = library.model_info(self._name.repo, revision=self._name.revision or DEFAULT_REVISION)
        if not GIT_OID.fullmatch(str(info.sha)):
            raise self._malformed("it has no commit")
        if not _REPO.fullmatch(str(info.id)):
            raise self._malformed(f"the repository's name is {str(info.id)[:100]!r}")
        return info.id, str(info.sha)

    def list_files(self, repo: str, commit: str) -> list[RemoteFile]:
        with self._library("a file lacks its path, size or digest", is_list=True) as library:
            entries = library.list_repo_tree(repo, recursive=True, revision=commit)
            files = [self._file(entry) for entry in entries if isinstance(entry, RepoFile)]
        return list({file.path: file for file in files if file is not None}.values())

    def file_url(self, repo: str, commit: str, path: str) -> str:
        return hf_hub_url(repo, path, revision=commit, endpoint=self.url)

    def read(self, repo: str, commit: str, file: RemoteFile) -> bytes:
        """Return the content of a small file. Raises ModelSourceError unless it has the digest of the listing."""
        content = self._get(self.file_url(repo, commit, file.path))[0]
        if not has_digest(content, file):
            raise ModelSourceError(f"{self._shown} sent {file.path} with another content than it listed; try again")
        return content

    @property
    def _shown(self) -> str:
        return f"hf.co/{self._name.repo}"

    @contextmanager
    def _library(self, problem: str, *, is_list: bool = False) -> Iterator[HfApi]:
        """Yield the library, whose requests this client sends. `problem` is what is wrong with an answer that it cannot read."""
        pages: set[str] = set()
        try:
            with answering(lambda request: self._answer(request, pages, is_list)):
                yield HfApi(endpoint=self.url, token=False)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._malformed(problem) from None

    def _answer(self, request: httpx2.Request, pages: set[str], is_list: bool) -> httpx2.Response:
        """Answer a request of the library. `pages` has the addresses of the same listing that were asked for before."""
        url = str(request.url)
        if "/api/models/" not in url:
            # The library also asks for a list of coding agents, to report the one that runs it. It needs no answer.
            raise self._malformed(f"{url[:200]!r} is not a page of it")
        if url in pages or len(pages) >= MAX_PAGES:
            raise self._malformed("its pages do not end")
        pages.add(url)
        body, response = self._get(url)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise self._malformed("it is not JSON") from None
        if is_list and not isinstance(content, list):
            raise self._malformed("it is not a list")  # the library takes {} for an empty list
        following = self._next_page(response)
        headers = {"Link": f'<{following}>; rel="next"'} if following is not None else {}
        return httpx2.Response(httpx.codes.OK, headers=headers, content=body, request=request)

    def _next_page(self, response: httpx.Response) -> httpx.URL | None:
        """Return the address of a listing's next page, at this hub: a mirror may pass on that of the hub behind it."""
        try:
            following = response.links.get("next", {}).get("url")
            address = response.url.join(following) if following is not None else None
        except httpx.InvalidURL:
            raise self._malformed("the address of its next page is not valid") from None
        if address is None or is_same_origin(address, httpx.URL(self.url)):
            return address
        return httpx.URL(f"{self.url}{address.raw_path.decode()}")

    def _file(self, entry: RepoFile) -> RemoteFile | None:
        """Return a file of a listing, or None for one that cannot be of a model."""
        path, size, sha256, git_oid = entry.path, entry.size, None, None
        if entry.lfs is not None:
            size, sha256 = entry.lfs.size, entry.lfs.sha256
        else:
            git_oid = entry.blob_id
        is_digest = SHA256.fullmatch(sha256) if sha256 is not None else GIT_OID.fullmatch(git_oid or "")
        # The library passes on values of any type. A wrong one may raise TypeError or AttributeError here.
        is_size = isinstance(size, int) and 0 <= size <= MAX_FILE_BYTES
        if not is_digest or not is_size or not _is_relative(path):
            raise self._malformed(f"the entry of {path[:100]!r} is not valid")
        # No model has files with names that cannot be printed.
        return RemoteFile(path=path, size_bytes=size, sha256=sha256, git_oid=git_oid) if path.isprintable() else None

    def _get(self, url: str) -> tuple[bytes, httpx.Response]:
        for delay_s in RETRY_DELAYS_S:
            try:
                return self._get_once(url)
            except _TransientError:
                time.sleep(delay_s)
        return self._get_once(url)

    def _get_once(self, url: str) -> tuple[bytes, httpx.Response]:
        body = bytearray()
        try:
            with limited_stream(self.http, url, MAX_LISTING_S, timeout=constants.HF_HUB_ETAG_TIMEOUT) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._unusual_status(response)
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_SMALL_BYTES:
                        raise HubUnreachableError(f"the answer of the hub for {self._shown} is too large")
                return bytes(body), response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _refuse_offline(self, request: httpx.Request) -> None:
        if self._is_offline:
            raise ModelSourceError(f"{self._shown} cannot be asked: HF_HUB_OFFLINE is set")

    def _refuse_errors(self, response: httpx.Response) -> None:
        """Raise the error of a hub's response that refuses the user or does not know the repository, revision or file."""
        status = response.status_code
        if status not in (401, 403, 404, 410, 451) or not is_same_origin(response.url, httpx.URL(self.url)):
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
            raise UnknownRepositoryError(f"{self._shown} does not exist (if it is private, {step})")
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
        self._hub = hub
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token and is_same_origin(request.url, self._hub):
            # A redirect to another host loses this header.
            request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def has_digest(content: bytes, file: RemoteFile) -> bool:
    computed = file.new_hash()
    computed.update(content)
    return computed.hexdigest() == file.digest


def _hub_url(settings: SourceSettings) -> str:
    url = settings.hub_url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ModelSourceError(f"HF_ENDPOINT must be an http or https address (got {url[:100]!r})")
    return url


def _token(settings: SourceSettings) -> str | None:
    """Return the token of the settings, of HF_TOKEN, or of the file that `hf auth login` writes."""
    if settings.hub_token is not None:
        return settings.hub_token or None
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    try:
        return get_token()
    except (OSError, ValueError, OIDCError) as error:
        raise ModelAccessError(
            f"the token for the hub cannot be read: {error}; check HF_TOKEN and HF_TOKEN_PATH"
        ) from None


def _is_relative(path: str) -> bool:
    return "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _quoted(text: str) -> str:
    """Return a server's text in parentheses. Texts that a terminal could take for commands are left out."""
    return f" ({text})" if text and text.isprintable() else ""
