"""Names of models, as people write them for Ollama, vLLM and llama.cpp, and their canonical form in the store.

| written                                                          | meaning                                    |
|------------------------------------------------------------------|--------------------------------------------|
| `qwen3:0.6b`, `registry.ollama.ai/library/qwen3:0.6b`            | a model of Ollama's library                |
| `ORG/REPO`, `hf.co/ORG/REPO`, `hf:ORG/REPO`, the page's address  | a repository of the Hugging Face hub       |
| `ORG/REPO:Q4_K_M`, `ORG/REPO@REVISION`, `ORG/REPO@REVISION:Q8_0` | one quantization, one revision             |
| `HOST[:PORT]/NAMESPACE/MODEL[:TAG]`                              | a model of another registry                |

The canonical form is in lower case, has a tag, and omits the hosts of the hub and of Ollama's library.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from pagoda.models.errors import ModelNotFoundError

DEFAULT_TAG = "latest"
LIBRARY_HOST, LIBRARY_NAMESPACE = "registry.ollama.ai", "library"
MAX_NAME_BYTES = 249
"""Longest name in the store. A lock's file name has six more bytes, and file systems allow 255."""

LIBRARY_HOSTS = (LIBRARY_HOST, "ollama.com", "www.ollama.com")
HUB_HOSTS = ("hf.co", "huggingface.co", "www.huggingface.co")
# `hf:1b` is a model called hf, and `hf:80/a/b` is on a host of this name.
_HUB_PREFIX = re.compile(r"^hf:(//)?(?=[^/]+/)(?![0-9]{1,5}/[^/]+/)", re.IGNORECASE | re.ASCII)
_SCHEME = re.compile(r"^https?://", re.IGNORECASE | re.ASCII)
_MAIN = "main"

# Lengths as at the hub, which allows longer names than Ollama.
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
# A dot, a port or the name localhost tells a host from a directory, as in Docker's names of images.
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_PORT = r":[0-9]{1,5}"
_HOST = rf"(?:localhost(?:{_PORT})?|{_LABEL}(?:\.{_LABEL})+(?:{_PORT})?|{_LABEL}{_PORT})"
# No part of a revision may be `..`, because the hub's cache has a file with the revision as its path.
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})*"
NAME = re.compile(
    rf"(?:(?:(?P<host>{_HOST})/)?(?P<namespace>{_PART})/)?(?P<model>{_PART})(?:@(?P<revision>{_REVISION}))?"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
)
"""A name without scheme and `hf:`. Upper and lower case are the same model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A model of the Hugging Face hub."""

    repo: str
    """`ORG/REPO`, as it was written."""
    revision: str = ""
    """Branch, tag or commit; empty for the main branch."""
    selector: str = ""
    """Quantization, or a file's name; empty for the best file."""

    def __str__(self) -> str:
        revision, selector = f"@{self.revision}" * bool(self.revision), f":{self.selector}" * bool(self.selector)
        return f"hf.co/{self.repo}{revision}{selector}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryName:
    """A model of a registry that speaks Ollama's protocol."""

    host: str
    namespace: str
    model: str
    tag: str = DEFAULT_TAG

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"


def parse_name(text: str) -> HubName | RegistryName:
    """Return the place that a name means. Raises ModelNotFoundError, with a sentence for the user, if it is not a name."""
    is_hub = is_hub_address(text)
    match = NAME.fullmatch(_without_address(text))
    if match is None:
        raise ModelNotFoundError(_not_a_name(text))
    host, namespace, model, revision, tag = match.group("host", "namespace", "model", "revision", "tag")
    is_elsewhere = _SCHEME.match(text) and _host_of(text) not in (*HUB_HOSTS, *LIBRARY_HOSTS)
    if is_elsewhere and (host is None or model.lower().endswith(".gguf")):
        raise ModelNotFoundError(
            f"{text[:200]!r} is not the address of a model at the hub or at a registry (HOST/NAMESPACE/MODEL); "
            "download the file, and use its path"
        )
    host = host.lower() if host else None
    if namespace is None and is_hub:
        raise ModelNotFoundError(
            f"{text[:200]!r} must name a repository of the hub as ORG/REPO, such as hf:Qwen/Qwen3-0.6B"
        )
    if namespace and (is_hub or (host is None and namespace.lower() != LIBRARY_NAMESPACE)):
        selector = "" if tag is None or tag.lower() == DEFAULT_TAG else tag
        revision = "" if revision in (None, _MAIN) else revision
        return HubName(repo=f"{namespace}/{model}", revision=revision, selector=selector)
    if revision:
        raise ModelNotFoundError(f"{text[:200]!r}: only models of the Hugging Face hub (ORG/REPO) have a revision")
    if host is None or host in LIBRARY_HOSTS:
        namespace, model, tag = (each and each.lower() for each in (namespace, model, tag))
        host = LIBRARY_HOST
    return RegistryName(host=host, namespace=namespace or LIBRARY_NAMESPACE, model=model, tag=tag or DEFAULT_TAG)


def is_hub_address(text: str) -> bool:
    """Return True if the text itself names the hub, as `hf:ORG/REPO` and `hf.co/ORG/REPO` do."""
    return _HUB_PREFIX.match(text) is not None or _host_of(text) in HUB_HOSTS


def is_path(text: str) -> bool:
    """Return True for text that can only be a path, not a name. `ORG/REPO:FILE.gguf` is a name."""
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return True
    return text.endswith(".gguf") and ":" not in text and not is_hub_address(text)


def normalize_name(text: str) -> str:
    """Return the canonical form of a name: "Model" is "model:latest", "hf.co/Org/Repo:Q8_0" is "org/repo:q8_0".

    Raises ModelNotFoundError if it is not a valid name.
    """
    name = parse_name(text)
    if isinstance(name, HubName):
        revision = f"@{name.revision}" * bool(name.revision)
        canonical = f"{name.repo}{revision}:{name.selector or DEFAULT_TAG}".lower()
        if canonical.startswith(f"{LIBRARY_NAMESPACE}/"):  # without a host, this is a model of Ollama's library
            canonical = f"{HUB_HOSTS[0]}/{canonical}"
    elif (name.host, name.namespace) == (LIBRARY_HOST, LIBRARY_NAMESPACE):
        canonical = f"{name.model}:{name.tag}"
    else:
        canonical = str(name).lower()
    num_bytes = len(canonical) + 2 * sum(map(canonical.count, "/:")) - 2
    if num_bytes > MAX_NAME_BYTES:
        raise ModelNotFoundError(
            f"the name {text[:80]!r}… is too long: it has {num_bytes} characters (maximum: {MAX_NAME_BYTES}), where each "
            "'/' and the ':' of a port counts as three; use a shorter revision or tag"
        )
    return canonical


def with_tag(name: str) -> str:
    """Return `model:latest` for `model`. Only a colon after the last slash begins a tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:{DEFAULT_TAG}"


def _host_of(text: str) -> str:
    return _SCHEME.sub("", text, count=1).partition("/")[0].lower()


def _without_address(text: str) -> str:
    """Return a name that NAME can match: without scheme and `hf:`, and from a page's address what the page is about."""
    host = _host_of(text)
    if host not in (*HUB_HOSTS, *LIBRARY_HOSTS):
        return _SCHEME.sub("", _HUB_PREFIX.sub("", text, count=1), count=1)
    path = re.split(r"[?#]", _SCHEME.sub("", text, count=1), maxsplit=1)[0].partition("/")[2]
    parts = [unquote(part) for part in path.rstrip("/").split("/")]
    return _of_hub_page(parts) if host in HUB_HOSTS else _of_library_page(parts)


def _of_hub_page(parts: list[str]) -> str:
    """Return the name of the repository, revision and GGUF file that a page of the hub shows.

    The parts are ORG/REPO, and then perhaps tree/REVISION[/FOLDER] or blob/REVISION/FILE.
    """
    if len(parts) < 4 or parts[2] not in ("tree", "blob", "resolve", "raw"):
        return "/".join(parts)
    name, kind, last = f"{parts[0]}/{parts[1]}@{parts[3]}", parts[2], parts[-1]
    has_selector = len(parts) > 4 and (kind == "tree" or last.endswith(".gguf"))
    return f"{name}:{last}" if has_selector else name


def _of_library_page(parts: list[str]) -> str:
    """Return the name of the model that a page of ollama.com shows. It has other pages about the same model below it."""
    if len(parts) == 1:
        return f"{LIBRARY_HOST}/{LIBRARY_NAMESPACE}/{parts[0]}"
    return "/".join((LIBRARY_HOST, *(parts[:2] if parts[2:3] in (["tags"], ["blobs"]) else parts)))


def _not_a_name(text: str) -> str:
    if not text:
        return "the model's name is missing; name a model, such as qwen3:0.6b or ORG/REPO"
    registry = "; one of another registry is HOST/NAMESPACE/MODEL, where HOST has a dot or a port"
    return (
        f"{text[:200]!r} is neither a model name nor an existing file; a name has letters, digits, '.', '_' and '-', "
        "and may end with a tag, such as qwen3:0.6b; a model of the Hugging Face hub is ORG/REPO"
        f"{registry * (text.count('/') == 2)}"
    )
