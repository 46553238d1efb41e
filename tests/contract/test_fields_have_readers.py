"""Tests that a receiver reads every field of the contracts: a field without a reader is an unkept promise."""

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pagoda.wire.inference_request import InferenceRequest, ResumedSample
from pagoda.wire.loadable_models import LoadableModel, LoadableModels
from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from protos.v1 import inference_pb2, types_pb2, worker_pb2
from tests.contract.field_reads import READS_VARIABLE
from tests.unit.pagoda.wire.wire_types import field_names, wire_types

REPOSITORY = Path(__file__).parents[2]
PRODUCT = ("gateway", "scheduler", "worker", "kvcache", "pagoda")
# mypy follows imports only where types of the product depend on them; following all would take ten times as long.
CONFIGURATION = f"""
[mypy]
plugins = {Path(__file__).with_name("field_reads.py")}
cache_dir = {os.devnull}
check_untyped_defs = True
[mypy-torch.*,numpy.*,grpc.*,fastapi.*,starlette.*,uvicorn.*,pydantic.*,pydantic_settings.*,opentelemetry.*]
follow_imports = skip
[mypy-prometheus_client.*,rich.*,typer.*,httpx.*,triton.*,jinja2.*,prompt_toolkit.*,google.rpc.*]
follow_imports = skip
"""

READ_BY_NAME = {
    # SamplingParams.from_proto reads them through ListFields.
    *(f"SamplingParams.{field.name}" for field in fields(SamplingParams)),
    # The worker's session reads every kind in the same way, by name.
    *(f"AttachResponse.{name}" for name in ("step", "load", "unload", "drain", "recall", "heartbeat_ack")),
    *(f"{name}.session_id" for name in ("HeartbeatAck", "Load", "Unload", "Recall", "Drain")),
}

SENT_TO_SCHEDULER = (
    InferenceRequest,
    ResumedSample,
    SampledTokens,
    ScoredTokens,
    StepResult,
    LoadableModel,
    LoadableModels,
)

MESSAGES = [
    message
    for file in (inference_pb2, types_pb2, worker_pb2)
    for message in file.DESCRIPTOR.message_types_by_name.values()
]


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Map `module.Class.field` to the top folders of the files that read it; the folder of pagoda/wire is `wire`."""
    directory = tmp_path_factory.mktemp("reads")
    reads, configuration = directory / "reads.txt", directory / "mypy.ini"
    configuration.write_text(CONFIGURATION)
    # Type errors are ignored: mypy does not see the other packages here.
    subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", configuration, *PRODUCT],
        cwd=REPOSITORY,
        env=os.environ | {READS_VARIABLE: str(reads)},
        capture_output=True,
        check=False,
    )
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line in reads.read_text().splitlines():
        name, _, path = line.partition(" ")
        folders = Path(path).resolve().relative_to(REPOSITORY).parts
        found[name].add("wire" if folders[:2] == ("pagoda", "wire") else folders[0])
    return found


def test_every_field_is_read_by_a_receiver(readers: dict[str, set[str]]) -> None:
    in_messages = {
        f"{message.name}.{field.name}"
        for message in MESSAGES
        for field in message.fields
        if not readers.get(f"{_module(message)}.{message.name}.{field.name}", set()) - {"protos"}
    }
    assert in_messages - READ_BY_NAME == set()
    in_wire_data = {
        f"{kind.__name__}.{name}"
        for kind in wire_types()
        for name in field_names(kind)
        if not readers.get(f"{kind.__module__}.{kind.__name__}.{name}", set()) & _receivers(kind)
    }
    assert in_wire_data == set()


def _receivers(kind: type[Any]) -> set[str]:
    if kind is SamplingParams:
        return {"scheduler", "worker"}
    return {"scheduler"} if kind in SENT_TO_SCHEDULER else {"gateway", "worker", "pagoda"}


def _module(message: Any) -> str:
    return str(message.file.name).removesuffix(".proto").replace("/", ".") + "_pb2"
