"""An HTTP client with the configuration of the user's pip: certificates, proxy, trusted hosts and credentials."""

import netrc
import os
import ssl
import urllib.request
from collections.abc import Generator, Iterable

import certifi
import httpx

from pagoda.models.wheels.pip import PipSettings

Credentials = tuple[str, str]


def index_client(settings: PipSettings) -> httpx.Client:
    return httpx.Client(
        auth=IndexAuth((*settings.index_urls, *settings.find_links)),
        follow_redirects=True,
        mounts={f"https://{host}": _unverified(host, settings) for host in settings.trusted_hosts},
        proxy=settings.proxy,
        timeout=settings.timeout_s,
        verify=_with_client_certificate(_verification(settings.certificates), settings),
    )


class IndexAuth(httpx.Auth):
    """Credentials for a request: of its URL, else of the nearest configured URL on its host, else of netrc.

    A redirect to another host gets no credentials.
    """

    def __init__(self, index_urls: Iterable[str]) -> None:
        urls = [httpx.URL(url) for url in index_urls if "@" in url]
        self._known = [(url.copy_with(userinfo=b""), credentials) for url in urls if (credentials := _of_url(url))]

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        credentials = _of_url(request.url) or self._of_index(request.url) or _of_netrc(request.url.host)
        if credentials is None:
            yield request
        else:
            yield from httpx.BasicAuth(*credentials).auth_flow(request)

    def _of_index(self, url: httpx.URL) -> Credentials | None:
        """Return the credentials of the configured index that is nearest to the URL: a host may have several indexes."""
        near = [known for known in self._known if _origin(known[0]) == _origin(url)]
        nearest = max(near, key=lambda known: len(os.path.commonpath([known[0].path, url.path])), default=None)
        return nearest and nearest[1]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _of_url(url: httpx.URL) -> Credentials | None:
    return (url.username, url.password) if url.userinfo else None


def _of_netrc(host: str) -> Credentials | None:
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return (found[0], found[2] or "") if found else None


def _verification(certificates: str | None) -> ssl.SSLContext:
    if certificates is None:
        context = ssl.create_default_context()  # the system's authorities, which may include a company's own
        context.load_verify_locations(certifi.where())
        return context
    if os.path.isdir(certificates):
        return ssl.create_default_context(capath=certificates)
    return ssl.create_default_context(cafile=certificates)


def _with_client_certificate(context: ssl.SSLContext, settings: PipSettings) -> ssl.SSLContext:
    if settings.client_certificate is not None:
        context.load_cert_chain(settings.client_certificate)
    return context


def _unverified(host: str, settings: PipSettings) -> httpx.HTTPTransport:
    """Return a transport for a trusted host, without certificate checks. It must set the proxy too, because it replaces the
    client's transport for this host."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    name = host.partition(":")[0]
    from_environment = None if urllib.request.proxy_bypass(name) else urllib.request.getproxies().get("https")
    verify = _with_client_certificate(context, settings)
    return httpx.HTTPTransport(proxy=settings.proxy or from_environment, verify=verify, trust_env=False)
