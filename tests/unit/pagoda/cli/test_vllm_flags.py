"""vLLM's flags and Ollama's environment variables on `pagoda serve`: the options that the tiers are started with."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import pagoda.cli.serve
from pagoda.cli.main import app
from pagoda.cli.options import OllamaHost, ollama_host
from pagoda.cli.serve import within_windows
from pagoda.cli.tiers import ServeOptions, tier_commands
from pagoda.cli.vllm_flags import FLAGS
from pagoda.models.store import ModelStore
from tests.fakes.tiny_model import write_tiny_gguf

Serve = Callable[..., tuple[Result, ServeOptions | None]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """Run `pagoda serve` until it would start the tiers."""
    asked: list[ServeOptions] = []

    def run_serve(options: ServeOptions) -> int:
        asked.append(options)
        return 0

    monkeypatch.setattr(pagoda.cli.serve, "run_serve", run_serve)

    def serve(*arguments: str, **environment: str) -> tuple[Result, ServeOptions | None]:
        asked.clear()
        result = CliRunner().invoke(app, ["serve", *arguments], env={"PAGODA_HOME": str(tmp_path), **environment})
        return result, asked[0] if asked else None

    return serve


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max-model-len", "4096"], {"max_model_len": 4096}),
        (["--max-model-len=4096"], {"max_model_len": 4096}),
        (["--max_model_len", "4096"], {"max_model_len": 4096}),
        (["--max-model-len", "2k"], {"max_model_len": 2000}),
        (["--max-model-len", "2K"], {"max_model_len": 2048}),
        (["--max-model-len", "auto"], {"max_model_len": None}),
        (["--max-num-seqs", "16"], {"max_step_sequences": 16}),
        (["--max_num_batched_tokens=256"], {"max_step_tokens": 256}),
        (["--data-parallel-size", "2"], {"num_workers": 2}),
        (["-dp", "2"], {"num_workers": 2}),
        (["--kv-cache-dtype", "int8"], {"kv_dtype": "int8"}),
        (["--kv_memory", "1GiB"], {"kv_memory": "1GiB"}),
        (["--generation-config", "vllm"], {"sampling_defaults": "neutral"}),
        (["--allowed-origins", '["https://a.b", "*"]'], {"allowed_origins": "https://a.b,*"}),
        (["tiny"], {"models": ("tiny",)}),
        (["tiny", "--port", "9000"], {"models": ("tiny",), "port": 9000}),
        (["one", "--model", "two"], {"models": ("one", "two"), "num_workers": 2}),
        ([], {"models": ("smollm2:135m",), "host": "127.0.0.1", "port": 8000, "names_no_model": True}),
        (["smollm2"], {"models": ("smollm2",), "names_no_model": False}),
        (["--api-key", "sesame"], {"api_key": "sesame"}),
        (["--strict-fields"], {"strict_fields": True}),
        (["Org/Repo", "--revision", "v1"], {"models": ("hf.co/Org/Repo@v1",)}),
        (["hf:Org/Repo:Q8_0", "--revision=refs/pr/1"], {"models": ("hf.co/Org/Repo@refs/pr/1:Q8_0",)}),
        (["--chat-template", "/x.jinja"], {"chat_template": Path("/x.jinja")}),
        (["--trust-request-chat-template"], {"trust_request_chat_template": True}),
    ],
    ids=str,
)
def test_what_means_the_same(serve: Serve, arguments: list[str], expected: Mapping[str, Any]) -> None:
    result, options = serve(*arguments)
    assert options is not None, result.output
    assert {name: getattr(options, name) for name in expected} == expected
    assert result.stderr == "" or "auto" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--tensor-parallel-size", "1"], "--tensor-parallel-size 1 has no effect; ignored."),
        (["-tp", "1"], "-tp 1 has no effect; ignored."),
        (["--dtype=auto"], "--dtype=auto has no effect; ignored."),
        (["--enable-prefix-caching"], "--enable-prefix-caching has no effect; ignored."),
        (["--trust_remote_code"], "--trust_remote_code has no effect; ignored."),
        (["--swap-space", "4"], "--swap-space 4 has no effect; ignored."),
        (["--tool-call-parser", "hermes"], "--tool-call-parser hermes has no effect; ignored."),
        (["--exclude-tools-when-tool-choice-none"], "--exclude-tools-when-tool-choice-none has no effect; ignored."),
        (
            ["--structured-outputs-config", '{"backend":"xgrammar"}'],
            '--structured-outputs-config {"backend":"xgrammar"} has no effect; ignored.',
        ),
        (
            ["--structured_outputs_config.reasoning_parser=qwen3"],
            "--structured_outputs_config.reasoning_parser=qwen3 has no effect; ignored.",
        ),
    ],
    ids=str,
)
def test_what_changes_nothing_is_said(serve: Serve, arguments: list[str], line: str) -> None:
    result, options = serve(*arguments, "--port", "9000")
    assert options is not None and options.port == 9000
    assert result.stderr == f"{line}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--served-model-name", "gpt-4"], "pagoda cp MODEL NAME"),
        (["--served_model_name=gpt-4"], "pagoda cp MODEL NAME"),
        (["--gpu-memory-utilization", "0.9"], "--kv-memory"),
        (["--tensor-parallel-size", "2"], "--workers"),
        (["--dtype", "float16"], "--numerics"),
        (["--no-enable-prefix-caching"], "cache_salt"),
        (["--enable-lora"], "adapters are not supported"),
        (["--kv-cache-dtype", "fp8"], "--kv-dtype"),
        (["--tool-parser-plugin", "mine.py"], "docs/output-formats.md"),
        (["--default-chat-template-kwargs", '{"enable_thinking":false}'], "chat_template_kwargs"),
        (["--structured-outputs-config", '{"disable_any_whitespace":true}'], "disable_any_whitespace is not supported"),
        (["--structured-outputs-config", "xgrammar"], "must be a JSON object (got 'xgrammar')"),
        (["tiny", "--revision", "v1"], "ORG/REPO (got 'tiny')"),
        (["Org/Repo@v2", "--revision", "v1"], "ORG/REPO (got 'Org/Repo@v2')"),
        (["./model", "--revision", "v1"], "ORG/REPO (got './model')"),
    ],
    ids=str,
)
def test_what_is_done_otherwise_is_a_sentence(serve: Serve, arguments: list[str], words: str) -> None:
    result, options = serve(*arguments)
    assert options is None and result.exit_code == 1
    assert result.stderr.startswith("Error: --") and words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_token_and_the_cache_of_the_hub_are_for_this_start(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, "before")  # restored after the test
    result, options = serve("--hf-token", "hf_secret", "--download_dir", "downloads")
    assert options is not None, result.output
    assert (os.environ["HF_TOKEN"], os.environ["HF_HUB_CACHE"]) == ("hf_secret", str(Path("downloads").absolute()))


def test_what_nobody_knows_is_refused(serve: Serve) -> None:
    result, options = serve("--prot", "8000")
    assert options is None and result.exit_code == 2


def test_every_flag_is_spelled_as_it_is_looked_up() -> None:
    assert all("_" not in name and name.startswith("-") for name in FLAGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("  ", None),
        ("myhost", OllamaHost(host="myhost", port=11434)),
        ("myhost:9000", OllamaHost(host="myhost", port=9000)),
        (":9000", OllamaHost(host="127.0.0.1", port=9000)),
        ("0.0.0.0", OllamaHost(host="0.0.0.0", port=11434)),
        ("0.0.0.0:9000", OllamaHost(host="0.0.0.0", port=9000)),
        ("http://myhost", OllamaHost(host="myhost", port=80)),
        ("https://myhost", OllamaHost(host="myhost", port=443, scheme="https")),
        ("http://myhost:9000/", OllamaHost(host="myhost", port=9000)),
        ("https://myhost:9000/ollama", OllamaHost(host="myhost", port=9000, scheme="https")),
        ("[::1]", OllamaHost(host="::1", port=11434)),
        ("[::1]:9000", OllamaHost(host="::1", port=9000)),
        ("::1", OllamaHost(host="::1", port=11434)),
        (' "myhost:9000" ', OllamaHost(host="myhost", port=9000)),
    ],
)
def test_ollama_host(monkeypatch: pytest.MonkeyPatch, text: str, expected: OllamaHost | None) -> None:
    monkeypatch.setenv("OLLAMA_HOST", text)
    assert ollama_host() == expected


@pytest.mark.parametrize("text", ["myhost:port", "myhost:70000", "ftp://myhost", "unix:///x"])
def test_what_is_no_ollama_host(monkeypatch: pytest.MonkeyPatch, serve: Serve, text: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", text)
    with pytest.raises(ValueError, match="OLLAMA_HOST must be"):
        ollama_host()
    result, options = serve(OLLAMA_HOST=text)
    assert options is None and "OLLAMA_HOST must be" in result.stderr


@pytest.mark.parametrize(
    ("environment", "arguments", "expected"),
    [
        ({"OLLAMA_HOST": "127.0.0.1:9000"}, [], {"host": "127.0.0.1", "port": 9000}),
        ({"OLLAMA_HOST": "0.0.0.0"}, ["--port", "9001"], {"host": "0.0.0.0", "port": 9001}),
        ({"OLLAMA_HOST": "0.0.0.0"}, ["--host", "127.0.0.1"], {"host": "127.0.0.1", "port": 11434}),
        ({"OLLAMA_KEEP_ALIVE": "24h"}, [], {"keep_alive": "24h"}),
        ({"OLLAMA_KEEP_ALIVE": "-1"}, [], {"keep_alive": "-1"}),
        ({"OLLAMA_KEEP_ALIVE": "24h", "PAGODA_KEEP_ALIVE": "5m"}, [], {"keep_alive": "5m"}),
        ({"OLLAMA_ORIGINS": "https://a.b,http://c.d"}, [], {"allowed_origins": "https://a.b,http://c.d"}),
        (
            {"OLLAMA_ORIGINS": "https://a.b", "PAGODA_GATEWAY_ALLOWED_ORIGINS": "https://c.d"},
            [],
            {"allowed_origins": "https://c.d"},
        ),
        ({"OLLAMA_CONTEXT_LENGTH": "4096"}, [], {"context_length": 4096, "max_model_len": None}),
        ({"OLLAMA_CONTEXT_LENGTH": "4096", "PAGODA_WORKER_MAX_MODEL_LEN": "64"}, [], {"max_model_len": 64}),
    ],
    ids=str,
)
def test_ollamas_environment(
    serve: Serve, environment: dict[str, str], arguments: list[str], expected: Mapping[str, Any]
) -> None:
    result, options = serve(*arguments, **environment)
    assert options is not None, result.output
    assert {name: getattr(options, name) for name in expected} == expected


def test_ollama_host_alone_opens_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["serve"], env={"PAGODA_HOME": str(tmp_path), "OLLAMA_HOST": "0.0.0.0"})
    assert refused.exit_code == 1
    assert "without an API key would open this server to the whole network" in refused.stderr


def test_a_context_length_is_at_most_what_the_model_was_made_for(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get(str(write_tiny_gguf(tmp_path / "tiny.gguf", max_position=512)))
    options = ServeOptions(models=("tiny",), host="127.0.0.1", port=8000, home=tmp_path, context_length=4096)
    assert within_windows(options, [model]).max_model_len == 512
    (worker,) = (command for command in tier_commands(within_windows(options, [model])) if command.name == "worker")
    assert worker.arguments[worker.arguments.index("--max-model-len") + 1] == "512"


def test_the_tiers_hear_of_it(tmp_path: Path) -> None:
    options = ServeOptions(
        models=("tiny",),
        host="127.0.0.1",
        port=8000,
        home=tmp_path,
        max_step_tokens=256,
        max_step_sequences=16,
        pull_on_demand=True,
        strict_fields=True,
        trust_request_chat_template=True,
        chat_template=Path("/t.jinja"),
        allowed_origins="https://a.b",
    )
    commands = {command.name: " ".join(command.arguments) for command in tier_commands(options)}
    assert "--max-step-tokens 256 --max-step-sequences 16" in commands["worker"]
    assert (
        "--pull-on-demand --strict-fields --trust-request-chat-template --chat-template /t.jinja --allowed-origins https://a.b"
        in commands["gateway"]
    )
