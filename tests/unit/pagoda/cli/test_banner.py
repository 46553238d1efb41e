"""The command that the banner suggests, for a model that chats and for one that does not."""

from pathlib import Path

import pytest

from pagoda.cli.banner import banner
from pagoda.cli.tiers import ServeOptions
from pagoda.models.blobs import BlobStore
from pagoda.models.catalogue import CatalogueEntry
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.sources.remote import RemoteModel
from pagoda.models.sources.source import Fetched
from pagoda.models.store import ModelStore
from pagoda.wire.load import SchedulerLoad
from protos.v1 import inference_pb2
from tests.fakes.tiny_model import CHAT_TEMPLATE, write_tiny_gguf


@pytest.mark.parametrize(
    ("in_the_file", "of_source", "endpoint", "question"),
    [
        (CHAT_TEMPLATE, "", "/v1/chat/completions", '"messages": [{'),
        (None, "", "/v1/completions", '"prompt": "'),
        (None, CHAT_TEMPLATE, "/v1/chat/completions", '"messages": [{'),
        (None, "{{ .System }}: {{ .Prompt }}", "/v1/completions", '"prompt": "'),
        (None, "{{ .Prompt }}", "/v1/completions", '"prompt": "'),
    ],
)
def test_a_base_model_is_asked_to_complete(
    tmp_path: Path, in_the_file: str | None, of_source: str, endpoint: str, question: str
) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=in_the_file)
    store = ModelStore(tmp_path)
    settings = ModelSettings(template=of_source)
    remote = RemoteModel(name="tiny", source="a registry", version="1", files=(), root="tiny.gguf", settings=settings)
    ModelEditor(store, BlobStore(tmp_path)).put_fetched("tiny", remote, Fetched(files={file.name: file}))
    options = ServeOptions(models=("tiny",), host="127.0.0.1", port=8000, home=tmp_path)
    load = SchedulerLoad.from_proto(inference_pb2.GetLoadResponse())
    lines = banner(options, [store.get("tiny")], load, [":8000"]).splitlines()
    (curl,) = (line for line in lines if "curl" in line)
    assert f"curl http://127.0.0.1:8000{endpoint} " in curl
    assert "  Anthropic http://127.0.0.1:8000" in lines
    assert question in curl


def test_kv_memory_is_stated_in_bytes_and_tokens(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get(str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    options = ServeOptions(models=("tiny",), host="127.0.0.1", port=8000, home=tmp_path)
    worker = inference_pb2.WorkerLoad(
        device="cpu", numerics_id="n", page_size=16, num_pages_free=2048, kv_bytes=1_000_000_000
    )
    gpu = inference_pb2.WorkerLoad(device="cuda", numerics_id="n", page_size=16, num_pages_free=1, kv_bytes=10**9)
    load = SchedulerLoad.from_proto(inference_pb2.GetLoadResponse(workers=[worker, gpu]))
    lines = banner(options, [model], load, [":8000"]).splitlines()
    assert "  worker 0  cpu, numerics n, KV memory: 1.0 GB for 32,768 tokens, taken as used" in lines
    assert "  worker 1  cuda, numerics n, KV memory: 1.0 GB for 16 tokens" in lines


def test_a_better_model_is_suggested(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get(str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    options = ServeOptions(models=("tiny",), host="127.0.0.1", port=8000, home=tmp_path)
    load = SchedulerLoad.from_proto(inference_pb2.GetLoadResponse())
    better = CatalogueEntry(
        name="big:4b", aliases=(), source="registry.ollama.ai/library/big:4b", size_bytes=2_600_000_000
    )
    suggested = banner(options, [model], load, [":8000"], better).splitlines()
    assert "For better answers: pagoda serve big:4b (2.6 GB download)" in suggested
    assert "For better answers" not in banner(options, [model], load, [":8000"])
