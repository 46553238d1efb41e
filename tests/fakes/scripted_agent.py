"""A gateway whose model is scripted to call the tool `get_weather`, in a thread, for clients that block or run elsewhere."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protos.v1 import inference_pb2
from tests.fakes.gateway import running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import write_tiny_gguf

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call>'
ANSWER = "It is 20 degrees in Lima."
RESULT = "20 degrees in Lima"
WINDOW = 1 << 16
DEADLINE_S = 200


def answer_as_agent(request: inference_pb2.GenerateRequest, index: int) -> Answer:
    """Call the tool, or say what the weather is once the prompt has the tool's result."""
    prompt = bytes(token_id for token_id in request.prompt_token_ids if token_id < 256).decode()
    return Answer(text=ANSWER if RESULT in prompt else CALL)


@contextmanager
def scripted_agent() -> Iterator[str]:
    """Run the gateway while the block runs, and yield its URL."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
            write_tiny_gguf(Path(directory) / "tiny.gguf", max_position=WINDOW)
            async with running_gateway(Path(directory), max_model_len=WINDOW) as gateway:
                gateway.scheduler.answer = answer_as_agent
                urls.append(gateway.url)
                ready.set()
                await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(DEADLINE_S)
    try:
        yield urls[0]
    finally:
        stop.set()
        thread.join()
