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

from pagoda.models.errors import ModelNotFoundError

DEFAULT_TAG = "latest"
LIBRARY_HOST, LIBRARY_NAMESPACE = "registry.ollama.ai", "library"
_LIBRARY_HOSTS = (LIBRARY_HOST, "ollama.com")
_HUB_HOSTS = ("hf.co", "huggingface.co")
_HUB_PREFIX = "hf:"

# Ollama's lengths, and the hub's, whose names may be longer.
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,253}(?::[0-9]{1,5})?"
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,95}"
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
    plain = text.removeprefix(_HUB_PREFIX)
    is_hub = plain != text
    plain = re.sub(r"^https?://", "", plain, flags=re.IGNORECASE).rstrip("/")
    match = NAME.fullmatch(plain)
    if match is None:
        raise ModelNotFoundError(_not_a_name(text))
    host, namespace, model, revision, tag = match.group("host", "namespace", "model", "revision", "tag")
    host = host.lower() if host else None
    if namespace and namespace.lower() in _LIBRARY_HOSTS and host is None:  # https://ollama.com/qwen3
        host, namespace = namespace.lower(), LIBRARY_NAMESPACE
    if host in _HUB_HOSTS or (is_hub and host is None) or (host is None and namespace):
        if not namespace:
            raise ModelNotFoundError(
                f"{text[:200]!r} must name a repository of the hub as ORG/REPO, such as hf:Qwen/Qwen3-0.6B"
            )
        selector = "" if tag is None or tag.lower() == DEFAULT_TAG else tag
        return HubName(repo=f"{namespace}/{model}", revision=revision or "", selector=selector)
    if is_hub or revision:
        raise ModelNotFoundError(f"{text[:200]!r}: only models of the Hugging Face hub (ORG/REPO) have a revision")
    return RegistryName(
        host=LIBRARY_HOST if host is None or host in _LIBRARY_HOSTS else host,
        namespace=(namespace or LIBRARY_NAMESPACE).lower(),
        model=model.lower(),
        tag=(tag or DEFAULT_TAG).lower(),
    )


def is_hub_address(text: str) -> bool:
    """Return True if the text itself names the hub, as `hf:ORG/REPO` and `hf.co/ORG/REPO` do."""
    plain = re.sub(r"^https?://", "", text, flags=re.IGNORECASE)
    return text.startswith(_HUB_PREFIX) or plain.partition("/")[0].lower() in _HUB_HOSTS


def normalize_name(text: str) -> str:
    """Return the canonical form of a name: "Model" is "model:latest", "hf.co/Org/Repo:Q8_0" is "org/repo:q8_0".

    Raises ModelNotFoundError if it is not a valid name.
    """
    name = parse_name(text)
    if isinstance(name, HubName):
        revision = f"@{name.revision}" * bool(name.revision)
        return f"{name.repo}{revision}:{name.selector or DEFAULT_TAG}".lower()
    if (name.host, name.namespace) == (LIBRARY_HOST, LIBRARY_NAMESPACE):
        return f"{name.model}:{name.tag}"
    return str(name)


def with_tag(name: str) -> str:
    """Return `model:latest` for `model`. Only a colon after the last slash begins a tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:{DEFAULT_TAG}"


def _not_a_name(text: str) -> str:
    if not text:
        return "the model's name is missing; name a model, such as qwen3:0.6b or ORG/REPO"
    return (
        f"{text[:200]!r} is neither a model name nor an existing file; a name has letters, digits, '.', '_' and '-', "
        "and may end with a tag, such as qwen3:0.6b; a model of the Hugging Face hub is ORG/REPO"
    )
