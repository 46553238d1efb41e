"""Tests of the public gRPC API with a foreign client: one that has only the files in protos/."""

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc_tools
import pytest

from tests.e2e.system import System

REPOSITORY = Path(__file__).parents[2]

CLIENT = """
import json, sys
import grpc
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

address, task = sys.argv[1:]
SERVICE = "protos.v1.InferenceService"


def request(max_tokens, **fields):
    sampling = types_pb2.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    return inference_pb2.GenerateRequest(prompt_token_ids=range(100, 120), sampling=sampling, **fields)


def generate(stub):
    tokens, finished = [], None
    for response in stub.Generate(request(8), timeout=200):
        if response.WhichOneof("event") == "tokens":
            assert response.tokens.sequence_number == len(tokens)
            tokens += response.tokens.token_ids
        elif response.WhichOneof("event") == "finished":
            finished = response.finished
    return {
        "tokens": tokens,
        "reason": types_pb2.FinishReason.Name(finished.reason),
        "prompt": finished.usage.num_prompt_tokens,
        "output": finished.usage.num_output_tokens,
    }


def deadline(stub):
    try:
        for _ in stub.Generate(request(100_000 // 64), timeout=0.5):
            pass
    except grpc.RpcError as error:
        return {"code": error.code().name}


def cancel(stub):
    call = stub.Generate(request(1500))
    for response in call:
        if response.WhichOneof("event") == "tokens":
            call.cancel()
            break
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return {"code": error.code().name}


def invalid(stub):
    try:
        greedy = types_pb2.SamplingParams(temperature=0)
        list(stub.Generate(inference_pb2.GenerateRequest(sampling=greedy), timeout=200))
    except grpc.RpcError as error:
        return {"code": error.code().name, "message": error.details()}


def models(stub):
    listed = stub.ListModels(inference_pb2.ListModelsRequest(), timeout=200).models
    (model,) = [model for model in listed if model.num_workers]
    return {"name": model.name, "max_model_len": model.max_model_len}


def health(stub):
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=200)
    return {"status": health_pb2.HealthCheckResponse.ServingStatus.Name(next(watch).status)}


with grpc.insecure_channel(address) as channel:
    result = globals()[task](inference_pb2_grpc.InferenceServiceStub(channel))
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the .proto files, the code that protoc generates from them, and a client."""
    directory = tmp_path_factory.mktemp("stranger")
    (directory / "protos" / "v1").mkdir(parents=True)
    protos = [shutil.copy(proto, directory / "protos" / "v1") for proto in REPOSITORY.glob("protos/v1/*.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"-I{Path(grpc_tools.__file__).parent}/_proto"]
    relative = [str(Path(proto).relative_to(directory)) for proto in protos]
    subprocess.run([*protoc, "--python_out=.", "--grpc_python_out=.", *relative], cwd=directory, check=True)
    (directory / "client.py").write_text(CLIENT)
    return directory


def ask(stranger: Path, system: System, task: str) -> dict[str, Any]:
    """Return the client's answer. The client runs in its directory, so that it imports its own generated modules."""
    command = [sys.executable, "client.py", system.scheduler_address, task]
    done = subprocess.run(command, cwd=stranger, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_what_a_run_leaves_is_its_owners_alone(system: System) -> None:
    made = [system.run_directory.parent, system.run_directory, *system.run_directory.iterdir()]
    found = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in made}
    assert {"gateway.log", "scheduler.sock", "worker.token"} <= found.keys()
    assert not any(found.values()), found


def test_generate_from_token_ids(stranger: Path, system: System) -> None:
    first = ask(stranger, system, "generate")
    assert len(first["tokens"]) == first["output"] == 8
    assert (first["prompt"], first["reason"]) == (20, "FINISH_REASON_LENGTH")
    assert ask(stranger, system, "generate")["tokens"] == first["tokens"]


def test_a_deadline_is_honoured(stranger: Path, system: System) -> None:
    assert ask(stranger, system, "deadline") == {"code": "DEADLINE_EXCEEDED"}


def test_a_call_can_be_cancelled(stranger: Path, system: System) -> None:
    assert ask(stranger, system, "cancel") == {"code": "CANCELLED"}


def test_an_empty_prompt_is_an_invalid_argument(stranger: Path, system: System) -> None:
    answer = ask(stranger, system, "invalid")
    assert answer["code"] == "INVALID_ARGUMENT"
    assert "prompt" in answer["message"]


def test_models_and_health(stranger: Path, system: System) -> None:
    model = ask(stranger, system, "models")
    assert model["name"] == "smollm2:135m" and model["max_model_len"] >= 2048
    assert ask(stranger, system, "health") == {"status": "SERVING"}
