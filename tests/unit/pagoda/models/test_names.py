"""Names of models: all spellings of a name, and addresses of pages, mean one place and have one canonical form."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.catalogue import DEFAULT_MODEL, find_entry
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.names import (
    MAX_NAME_BYTES,
    NAME,
    HubName,
    RegistryName,
    is_hub_address,
    normalize_name,
    parse_name,
    with_tag,
)

COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"
WORDS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True)


def library(model: str, tag: str = "latest", namespace: str = "library") -> RegistryName:
    return RegistryName(host="registry.ollama.ai", namespace=namespace, model=model, tag=tag)


@pytest.mark.parametrize(
    ("text", "place", "canonical"),
    [
        ("qwen3", library("qwen3"), "qwen3:latest"),
        ("Qwen3:0.6B", library("qwen3", "0.6b"), "qwen3:0.6b"),
        ("library/qwen3:0.6b", library("qwen3", "0.6b"), "qwen3:0.6b"),
        ("registry.ollama.ai/library/qwen3:0.6b", library("qwen3", "0.6b"), "qwen3:0.6b"),
        ("https://ollama.com/library/qwen3:0.6b", library("qwen3", "0.6b"), "qwen3:0.6b"),
        ("https://ollama.com/library/qwen3/tags", library("qwen3"), "qwen3:latest"),
        ("https://www.ollama.com/library/qwen3:4b/blobs/163553aea1b1", library("qwen3", "4b"), "qwen3:4b"),
        ("ollama.com/qwen3?from=search#readme", library("qwen3"), "qwen3:latest"),
        ("_mine", library("_mine"), "_mine:latest"),
        ("hf:1b", library("hf", "1b"), "hf:1b"),
        ("https://ollama.com/User/Model", library("model", namespace="user"), "registry.ollama.ai/user/model:latest"),
        (
            "Registry.local:5000/Team/Model:Q4_K_M",
            RegistryName(host="registry.local:5000", namespace="Team", model="Model", tag="Q4_K_M"),
            "registry.local:5000/team/model:q4_k_m",
        ),
        (
            "http://localhost/team/model",
            RegistryName(host="localhost", namespace="team", model="model"),
            "localhost/team/model:latest",
        ),
        ("hf:80/a/b", RegistryName(host="hf:80", namespace="a", model="b"), "hf:80/a/b:latest"),
        (
            "box:80/library/model:1b",
            RegistryName(host="box:80", namespace="library", model="model", tag="1b"),
            "box:80/library/model:1b",
        ),
    ],
)
def test_names_of_registries(text: str, place: RegistryName, canonical: str) -> None:
    assert (parse_name(text), normalize_name(text), is_hub_address(text)) == (place, canonical, False)


QWEN = HubName(repo="Qwen/Qwen3-0.6B-GGUF")


@pytest.mark.parametrize(
    ("text", "place", "canonical"),
    [
        (text, QWEN, "qwen/qwen3-0.6b-gguf:latest")
        for text in (
            "hf.co/Qwen/Qwen3-0.6B-GGUF",
            "HF.co/Qwen/Qwen3-0.6B-GGUF:latest",
            "hf:Qwen/Qwen3-0.6B-GGUF",
            "HF://Qwen/Qwen3-0.6B-GGUF@main",
            "HuggingFace.co/Qwen/Qwen3-0.6B-GGUF",
            "https://huggingface.co/Qwen/Qwen3-0.6B-GGUF/",
            "https://huggingface.co/Qwen/Qwen3-0.6B-GGUF?library=transformers",
            "https://huggingface.co/Qwen/Qwen3-0.6B-GGUF#model-card",
            "HTTPS://hf.co/Qwen/Qwen3-0.6B-GGUF/tree/main",
            "https://huggingface.co/Qwen/Qwen3-0.6B-GGUF/blob/main/params",
        )
    ]
    + [
        (
            "hf.co/Library/R",
            HubName(repo="Library/R"),
            "hf.co/library/r:latest",
        ),
        (
            "hf.co/o/R:Q4_K_M",
            HubName(repo="o/R", selector="Q4_K_M"),
            "o/r:q4_k_m",
        ),
        (
            f"hf:o/R@{COMMIT}:R-Q8_0.gguf",
            HubName(repo="o/R", revision=COMMIT, selector="R-Q8_0.gguf"),
            f"o/r@{COMMIT}:r-q8_0.gguf",
        ),
        (
            "hf.co/o/R@refs/pr/13:Q8_0",
            HubName(repo="o/R", revision="refs/pr/13", selector="Q8_0"),
            "o/r@refs/pr/13:q8_0",
        ),
        (
            "https://huggingface.co/o/R/tree/refs%2Fpr%2F13",
            HubName(repo="o/R", revision="refs/pr/13"),
            "o/r@refs/pr/13:latest",
        ),
        (
            "https://huggingface.co/o/R/blob/main/R-Q4_K_M.gguf",
            HubName(repo="o/R", selector="R-Q4_K_M.gguf"),
            "o/r:r-q4_k_m.gguf",
        ),
        (
            "https://huggingface.co/o/R/resolve/v1.0/Q4/R-Q4.gguf?download=true",
            HubName(repo="o/R", revision="v1.0", selector="R-Q4.gguf"),
            "o/r@v1.0:r-q4.gguf",
        ),
        (
            "https://huggingface.co/o/R/tree/main/UD-Q4_K_XL",
            HubName(repo="o/R", selector="UD-Q4_K_XL"),
            "o/r:ud-q4_k_xl",
        ),
    ],
)
def test_names_of_the_hub(text: str, place: HubName, canonical: str) -> None:
    assert (parse_name(text), normalize_name(text), is_hub_address(text)) == (place, canonical, True)


def test_a_name_with_one_slash_is_the_hubs_without_saying_so() -> None:
    assert parse_name("Qwen/Qwen3-0.6B:Q8_0") == HubName(repo="Qwen/Qwen3-0.6B", selector="Q8_0")
    assert not is_hub_address("Qwen/Qwen3-0.6B:Q8_0")
    assert normalize_name("user/model") == "user/model:latest"


JUNK = [
    "a b", "../a", "a/../b", "./a", "/a", "a/", "/", ".", "..", ":a", "a:", "a:b:c", "a/b:c/d", "a/b/c", "a//b", "-a", "a\n",
    "a\x00b", "a\x1b[2Jb", "C:", "C:\\models\\a.gguf", "C:/models/a", "%2e%2e/a", "a%2fb", "qwеn3", "ｑwen3", "a\u202eb",
    "httpſ://ollama.com/library/a", "a/b@../../c", "a/b@c/../d", "a/b@c//d", "a/b@", "a/b@/c", "a@b@c", "a/b:../c",
    "localhost:5000/a", "http://", "https://ollama.com", "https://huggingface.co", "ftp://hf.co/a/b",
    "https://huggingface.co/datasets/a/b", "https://huggingface.co/a/b/discussions/1", "https://user:pw@hf.co/a/b",
    "https://huggingface.co/a/b/tree/..%2F..%2Fc", "https://huggingface.co/a/b/blob/main/..%2f..%2fc.gguf",
    "https://huggingface.co/a/b%2f..%2fc", "https://ollama.com/library/a/b/c", "host.example:123456/a/b", "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize("text", JUNK, ids=ascii)
def test_other_text_is_refused_with_what_a_name_is(text: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"is neither a model name nor an existing file; a name has letters"):
        parse_name(text)


def test_a_host_without_a_dot_is_explained() -> None:
    with pytest.raises(
        ModelNotFoundError, match="one of another registry is HOST/NAMESPACE/MODEL, where HOST has a dot"
    ):
        parse_name("registry/team/model")


@pytest.mark.parametrize(
    "text", ["https://example.com/my.gguf", "http://example.com/files/My.GGUF", "https://modelscope.cn/qwen3"]
)
def test_the_address_of_a_file_elsewhere_is_not_taken_for_a_name(text: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"download the file, and use its path$"):
        parse_name(text)


@pytest.mark.parametrize("text", ["", "hf.co/qwen3", "https://huggingface.co/gpt2", "qwen3@main"])
def test_a_name_that_lacks_something_says_so(text: str) -> None:
    reason = "ORG/REPO"  # each of the messages shows this form
    with pytest.raises(ModelNotFoundError, match=reason):
        normalize_name(text)


def test_a_name_that_no_directory_can_have_is_too_long() -> None:
    org, repo, revision = "o" * 96, "r" * 96, "1" * 40
    assert normalize_name(f"{org}/{repo}@{revision}")
    with pytest.raises(ModelNotFoundError, match=rf"is too long: it has 256 characters \(maximum: {MAX_NAME_BYTES}\)"):
        normalize_name(f"{org}/{repo}@{revision}:{'q' * 19}")


@given(st.text(alphabet=string.printable + "éſКｑ\u202e", max_size=30) | st.from_regex(NAME, fullmatch=True))
def test_any_text_is_a_safe_name_or_a_sentence(text: str) -> None:
    try:
        canonical = normalize_name(text)
    except ModelNotFoundError as error:
        assert str(error).isprintable()
        return
    assert re.fullmatch(r"[a-z0-9_][a-z0-9_./:@-]*:[a-z0-9_][a-z0-9_.-]*", canonical)
    assert not any(part.startswith(".") or not part for part in canonical.split("/"))
    assert normalize_name(canonical) == canonical == with_tag(canonical)


@given(WORDS, WORDS, st.none() | WORDS, st.none() | WORDS)
def test_a_place_is_parsed_from_what_it_prints(org: str, repo: str, revision: str | None, selector: str | None) -> None:
    place = HubName(repo=f"{org}/{repo}", revision=revision or "", selector=selector or "")
    if place.revision != "main" and place.selector.lower() != "latest":
        assert parse_name(str(place)) == place


@given(WORDS, WORDS, WORDS)
def test_a_registrys_place_is_parsed_from_what_it_prints(namespace: str, model: str, tag: str) -> None:
    place = RegistryName(host="registry.example:5000", namespace=namespace, model=model, tag=tag)
    assert parse_name(str(place)) == place


def test_the_default_model_is_found_by_its_aliases() -> None:
    names = ("smollm2", "smollm2:135m-instruct", "SMOLLM2:135m", "library/smollm2:135M", "ollama.com/library/smollm2")
    assert {find_entry(name) for name in names} == {find_entry(DEFAULT_MODEL)}
