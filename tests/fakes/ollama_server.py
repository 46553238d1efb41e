"""A scripted server for the part of Ollama's API that the command uses. It records the requests.

It runs in a thread of the test, on a real port: the command's own client and its broken connections are part of the test.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSONObject = dict[str, Any]
MODEL = "tiny:latest"
FOREVER = "2318-01-01T00:00:00Z"
END = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 2_500_000_000,
    "load_duration": 1_500_000,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 4,
    "eval_duration": 2_000_000_000,
}


class OllamaServer:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[tuple[str, JSONObject]] = []
        self.models = {MODEL, "tiny"}
        self.pullable: set[str] = set()
        self.pull_steps = [("ab", 100, 0), ("ab", 100, 50), ("ab", 100, 100)]
        """Digest, size and received bytes of a file, for each step of a pull."""
        self.digest = "ab" * 32
        """Digest of the model that the server has at first."""
        self.blobs: dict[str, int] = {}
        """Sizes of uploaded blobs, by digest."""
        self.pieces: list[str] = ["Hello", " there", "."]
        self.thoughts: list[str] = []
        """Pieces of the reasoning before the answer."""
        self.shown: JSONObject = {
            "details": {"parameter_size": "1M", "quantization_level": "F32"},
            "model_info": {"general.architecture": "llama", "llama.context_length": 512},
            "capabilities": ["completion"],
            "template": "{{ messages }}",
            "modelfile": "FROM tiny",
            "parameters": "temperature 0.5",
            "license": "",
            "system": "",
        }
        self.expires_at = FOREVER
        self.is_pagoda = True
        self.queue: JSONObject = {}
        """The answer of Pagoda's queue route; if empty, the route does not exist."""
        self.key = ""
        self.error_after_pieces = ""
        self.goes_on = False
        """True if the answer never ends: the server writes until the client breaks the connection."""
        self.broken = threading.Event()
        """Set when the client broke a connection before its answer ended."""

    def bodies(self, path: str) -> list[JSONObject]:
        return [body for asked, body in self.requests if asked == path]

    def answer(self, path: str, body: JSONObject) -> tuple[int, JSONObject] | Iterator[JSONObject]:
        match path:
            case "/api/version":
                return 200, {"version": "0.9"}
            case "/ready" if self.is_pagoda:
                return 200, {"status": "ready"}
            case "/ready":
                return 404, {}
            case "/queue":
                return (200, self.queue) if self.queue else (404, {"error": "not found"})
            case "/api/tags":
                model = {"name": MODEL, "digest": self.digest, "size": 5_000_000_000}
                return 200, {"models": [model | {"modified_at": "2026-01-01T12:00:00.123456789+01:00"}]}
            case "/api/ps":
                running = {"name": MODEL, "digest": "ab" * 32, "size": 5_000_000_000, "size_vram": 0}
                return 200, {"models": [running | {"context_length": 512, "expires_at": self.expires_at}]}
            case "/api/create":
                self.models.add(body["model"])
                return iter([{"status": "writing manifest"}, {"status": "success"}])
            case "/api/pull":
                return self._pull(body["model"])
        if body.get("model") not in self.models:
            return 404, {"error": f"model '{body.get('model')}' not found"}
        if path == "/api/show":
            return 200, self.shown
        if path == "/api/generate" and not body.get("prompt"):
            return 200, {"model": MODEL, "response": "", "done": True, "done_reason": "load"}
        return self._generate(path)

    def _pull(self, model: str) -> Iterator[JSONObject]:
        yield {"status": "pulling manifest"}
        if model not in self.pullable:
            yield {"error": f"pull model manifest: the model '{model}' is unknown"}
            return
        for digest, total, completed in self.pull_steps:
            yield {"status": f"pulling {digest}", "digest": f"sha256:{digest}", "total": total, "completed": completed}
        self.models.add(model)
        yield {"status": "success"}

    def _generate(self, path: str) -> Iterator[JSONObject]:
        def line(text: str, **thinking: str) -> JSONObject:
            if path == "/api/chat":
                return {"message": {"role": "assistant", "content": text, **thinking}}
            return {"response": text, **thinking}

        for thought in self.thoughts:
            yield line("", thinking=thought) | {"done": False}
        for piece in self.pieces:
            yield line(piece) | {"done": False}
        while self.goes_on:
            yield line(" more") | {"done": False}
        yield {"error": self.error_after_pieces} if self.error_after_pieces else line("") | END


@contextmanager
def ollama_server() -> Iterator[OllamaServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond({})

        def do_HEAD(self) -> None:
            self.send_response(200 if self.path.rpartition("/")[2] in server.blobs else 404)
            self.end_headers()

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            directory, _, digest = self.path.rpartition("/")
            if directory == "/api/blobs":
                server.blobs[digest] = len(content)
                self._send(201, "application/json", iter([]))
            else:
                self._respond(json.loads(content))

        def _respond(self, body: JSONObject) -> None:
            server.requests.append((self.path, body))
            answer = server.answer(self.path, body)
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                answer = 401, {"error": "unauthorized"}
            if isinstance(answer, tuple):
                self._send(answer[0], "application/json", iter([answer[1]]))
            else:
                self._send(200, "application/x-ndjson", answer)

        def _send(self, status: int, content_type: str, lines: Iterator[JSONObject]) -> None:
            """Send an answer without a length, which ends with the connection."""
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            try:
                for line in lines:
                    self.wfile.write(json.dumps(line).encode() + b"\n")
            except (BrokenPipeError, ConnectionResetError):
                server.broken.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = OllamaServer(http.server_port)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
